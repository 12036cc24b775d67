"""Time the stages of a request: for everybody, in the metrics, and for its caller."""

from collections.abc import Callable
from time import perf_counter

Stages = Callable[[str, float], None]
"""Is told that a stage took so many seconds. Must not raise and must not block."""


class Timings:
    """The stages of one request, in seconds by name.

    Images of one request pass a stage side by side; the slowest of them is what the caller waited for.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def stage(self, name: str, seconds: float) -> None:
        """Note a stage's duration; of several the longest stays."""
        self.seconds[name] = max(seconds, self.seconds.get(name, 0.0))


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


def both(one: Stages, other: Stages) -> Stages:
    """Tell two of them."""

    def tell(name: str, seconds: float) -> None:
        one(name, seconds)
        other(name, seconds)

    return tell


def nobody(name: str, seconds: float) -> None:
    """Tell nobody."""
