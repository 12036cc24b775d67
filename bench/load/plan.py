"""Loads and their outcomes, which cross the load generator's pipe as JSON."""

from dataclasses import dataclass
from typing import Literal

Draw = Literal["cold", "warm", "zipf"]
Mode = Literal["closed", "open"]


@dataclass(frozen=True, slots=True)
class Load:
    """One run against one address.

    Attributes:
        port: On 127.0.0.1.
        images: Paths of encoded images.
        seconds: How long requests are begun; those in flight are waited for.
        connections: Closed loop: all of them busy all the time. Open loop: the most that are opened.
        mode: `closed`; `open`: requests are due at a fixed rate, whether or not the server keeps up.
        rate: Requests a second of the open loop.
        draw: `cold`: no body twice, ever; `warm`: the images over and over; `zipf`: `population` bodies, the r-th most
            popular one drawn in proportion to 1/r.
        population: Distinct bodies of the Zipf draw.
        series: Of the Zipf draw: equal ones are equal bodies in equal order, others share none.
        per_request: Images in a request; more than one go as a form.
        path: Of the request.
    """

    port: int
    images: list[str]
    seconds: float
    connections: int = 8
    mode: Mode = "closed"
    rate: float = 0.0
    draw: Draw = "warm"
    population: int = 2000
    series: int = 0
    per_request: int = 1
    path: str = "/embed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a load.

    Attributes:
        statuses: Answers by HTTP status; "0" for connections that broke.
        seconds: From the first request to the last answer.
        latency: Seconds at each percentile, of answers with status 200, from when the request was due.
        images: Images in requests answered with 200.
        bytes_received: Body bytes of all answers.
        cpu_seconds: Of the load generator itself.
    """

    statuses: dict[str, int]
    seconds: float
    latency: dict[str, float]
    images: int
    bytes_received: int
    cpu_seconds: float

    @property
    def answered(self) -> int:
        """Requests answered with 200."""
        return self.statuses.get("200", 0)

    @property
    def rate(self) -> float:
        """Images answered with 200, per second."""
        return self.images / self.seconds
