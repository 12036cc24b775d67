"""What is known of one model that is served here."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from microtome.manifest import ModelCard
from service.errors import ServiceError


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. An idle model is asked for its manifest after `ask_after`, and tried with an image after `try_after`.

    It is ready while it has answered within `answers_for` and an inference has worked within `works_for`.
    """

    poll: float = 1.0
    retry: float = 0.2
    call: float = 2.0
    infer: float = 30.0
    ask_after: float = 4.0
    answers_for: float = 10.0
    try_after: float = 60.0
    works_for: float = 150.0


@dataclass(slots=True)
class Served:
    """A model by what the server last said and did.

    Attributes:
        card: the version that requests go to.
        confirmed: whether the server that answered the manifest is known to be alive.
        answered_at: when it last answered anything out of its session.
        worked_at: when an inference last worked.
        error: what is wrong now.
        versions: every version that the server knows, with its state; empty while the server cannot be asked.
        pinned: other versions that were asked for by number.
        refused: versions that did not answer, so that the log says it once.
        looking: held by whoever asks the server.
    """

    card: ModelCard | None = None
    confirmed: bool = False
    answered_at: float = float("-inf")
    worked_at: float = float("-inf")
    error: ServiceError | None = None
    versions: Mapping[int, str] = field(default_factory=dict)
    pinned: dict[int, ModelCard] = field(default_factory=dict)
    refused: set[int] = field(default_factory=set)
    looking: asyncio.Lock = field(default_factory=asyncio.Lock)

    def trouble(self, now: float, timing: Timing) -> str | None:
        """Return what is wrong, for people; None when the model answers, and an inference has worked not long ago."""
        if self.error is not None:
            return str(self.error)
        if now - self.answered_at > timing.answers_for:
            return "The model has not answered recently."
        return "No inference has worked recently." if now - self.worked_at > timing.works_for else None
