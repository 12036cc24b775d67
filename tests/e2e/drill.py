"""Clients that send photos without a pause while a test breaks things, and a tally of every answer."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import httpx

from tests.e2e.answers import Vector, relative_error, vector
from tests.e2e.photos import unseen
from tests.e2e.processes import Gateway, eventually

SAME = 1e-5
"""Relative error below which two runs of one version gave the same vector (design, invariant 2)."""

Judge = Callable[[str, httpx.Response], str | None]
"""Says what is wrong with an answer to the photo of this name; None for nothing."""


@dataclass
class Tally:
    """What came of the requests."""

    answers: list[tuple[str, httpx.Response]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    slowest: float = 0.0

    @property
    def sent(self) -> int:
        """How many requests have ended, one way or another."""
        return len(self.answers) + len(self.failures)

    def __str__(self) -> str:
        """The line for the report."""
        counts = f"{self.sent} sent, {len(self.failures)} failed, {len(self.wrong)} wrong"
        return f"{counts}, slowest {self.slowest:.2f} s"


class Sending:
    """Threads that send for the length of a `with` block; each ends once `_over` is set."""

    def __init__(self, threads: Sequence[threading.Thread]) -> None:
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._threads = threads

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


class Drill(Sending):
    """Sends from several clients at once for the length of a `with` block: new photos and known ones in turn."""

    def __init__(self, gateway: Gateway, photos: Mapping[str, bytes], judge: Judge, clients: int = 3) -> None:
        self.tally = Tally()
        self._gateway = gateway
        self._photos = photos
        self._judge = judge
        super().__init__([threading.Thread(target=self._send, args=(number,)) for number in range(clients)])

    def more(self, answers: int) -> None:
        """Wait until so many further requests have ended."""
        enough = self.tally.sent + answers
        eventually(lambda: self.tally.sent >= enough, f"{answers} more answers ({self.tally})", 120.0)

    def until(self, condition: Callable[[Tally], object], what: str, seconds: float = 90.0) -> None:
        """Wait until the tally shows something."""
        eventually(lambda: condition(self.tally), f"{what} ({self.tally})", seconds)

    def _send(self, number: int) -> None:
        names = list(self._photos)
        with self._gateway.client() as client:
            turn = number
            while not self._over.is_set():
                name = names[turn % len(names)]
                photo = self._photos[name]
                self._send_one(client, name, unseen(photo) if turn % 2 else photo)
                turn += 1

    def _send_one(self, client: httpx.Client, name: str, photo: bytes) -> None:
        begin = time.monotonic()
        try:
            response = client.post("/embed", content=photo, headers={"content-type": "image/jpeg"})
        except httpx.HTTPError as error:
            with self._lock:
                self.tally.failures.append(repr(error))
            return
        with self._lock:
            self.tally.slowest = max(self.tally.slowest, time.monotonic() - begin)
            self.tally.answers.append((name, response))
            if fault := self._judge(name, response):
                self.tally.wrong.append(fault)


def exactly(expected: Mapping[str, Vector]) -> Judge:
    """Every answer must be 200 with the expected vector."""

    def judge(name: str, response: httpx.Response) -> str | None:
        if response.status_code != httpx.codes.OK:
            return f"{name}: {response.status_code} {response.text[:200]}"
        error = relative_error(vector(response.json()), expected[name])
        return f"{name}: relative error {error}" if error > SAME else None

    return judge


def exactly_or_come_back(expected: Mapping[str, Vector]) -> Judge:
    """Every answer must be 200 with the expected vector, or 503 that says when to come back."""
    right = exactly(expected)

    def judge(name: str, response: httpx.Response) -> str | None:
        if response.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            return None if "retry-after" in response.headers else f"{name}: 503 without Retry-After"
        return right(name, response)

    return judge
