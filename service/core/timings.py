"""Time the stages of a request: for everybody, in the metrics, and for its caller."""

from collections.abc import Callable
from time import perf_counter

Stages = Callable[[str, float], None]
"""Is told that a stage took so many seconds. Must not raise and must not block."""


class Timings:
    """The stages of one request, in seconds by name.

    Images of one request pass a stage side by side; the slowest of them is what the caller waited for.
    """

    __slots__ = ("_everybody", "seconds")

    def __init__(self, everybody: Stages) -> None:
        """Begin without any; `everybody` is told each stage, too."""
        self._everybody = everybody
        self.seconds: dict[str, float] = {}

    def stage(self, name: str, seconds: float) -> None:
        """Note a stage that this request passed, and tell everybody."""
        self._everybody(name, seconds)
        self.note(name, seconds)

    def note(self, name: str, seconds: float) -> None:
        """Note a stage that everybody has been told of, or will be; of several the longest stays."""
        if seconds >= self.seconds.get(name, 0.0):
            self.seconds[name] = seconds


class timed:  # noqa: N801, reads like the function that it was, and costs a third: it runs many times a request
    """Report how long the block took, also when it fails: slow failures are the ones worth seeing."""

    __slots__ = ("_stage", "_start", "_tell")

    def __init__(self, tell: Stages, stage: str) -> None:
        self._tell = tell
        self._stage = stage

    def __enter__(self) -> None:
        self._start = perf_counter()

    def __exit__(self, *_: object) -> None:
        self._tell(self._stage, perf_counter() - self._start)


def nobody(name: str, seconds: float) -> None:
    """Tell nobody."""
