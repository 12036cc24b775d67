"""Until when an answer is waited for: by one caller, and by all who wait for the same work."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import inf
from time import monotonic

_current: ContextVar[float] = ContextVar("microtome_deadline", default=inf)


class Deadline:
    """When the last who waits gives up; it moves when somebody joins who waits longer.

    Attributes:
        at: as `time.monotonic` counts; infinite when nobody ever gives up.
    """

    __slots__ = ("at",)

    def __init__(self, at: float = inf) -> None:
        self.at = at

    def extend(self, at: float) -> None:
        """Somebody waits until then."""
        self.at = max(self.at, at)

    def left(self) -> float:
        """Seconds until then; negative when it is over."""
        return self.at - monotonic()


@contextmanager
def allowed_time(seconds: float) -> Iterator[None]:
    """What is asked for while the block runs is waited for so long. Cancelling it is the caller's affair."""
    before = _current.set(min(_current.get(), monotonic() + seconds))
    try:
        yield
    finally:
        _current.reset(before)


def current() -> float:
    """Until when the present caller waits, as `time.monotonic` counts."""
    return _current.get()
