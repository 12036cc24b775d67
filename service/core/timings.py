"""Time the stages of a request, for the metrics and for its caller."""

from collections.abc import Callable
from time import perf_counter

Stages = Callable[[str, float], None]
"""Called with a stage's name and seconds. Must not raise and must not block."""


class Timings:
    """The stages of one request, in seconds by name.

    Images of one request pass a stage in parallel; the slowest of them is what the caller waited for.
    """

    __slots__ = ("_observe", "seconds")

    def __init__(self, observe: Stages) -> None:
        """Begin without any; `observe` is called with each stage, too."""
        self._observe = observe
        self.seconds: dict[str, float] = {}

    def stage(self, name: str, seconds: float) -> None:
        """Note a stage of this request, and report it."""
        self._observe(name, seconds)
        self.note(name, seconds)

    def note(self, name: str, seconds: float) -> None:
        """Note a stage that is reported elsewhere; of several the longest stays."""
        if seconds >= self.seconds.get(name, 0.0):
            self.seconds[name] = seconds


class timed:  # noqa: N801, a context manager; no generator, which costs three times as much
    """Report how long the block took, also when it fails: slow failures are the ones worth seeing."""

    __slots__ = ("_stage", "_start", "_tell")

    def __init__(self, tell: Stages, stage: str) -> None:
        self._tell = tell
        self._stage = stage

    def __enter__(self) -> None:
        self._start = perf_counter()

    def __exit__(self, *_: object) -> None:
        self._tell(self._stage, perf_counter() - self._start)


def unobserved(name: str, seconds: float) -> None:
    """Ignore a stage."""
