"""Refuse work that would wait too long, judged by how fast work has been done of late.

By Little's law a new image waits as long as the images before it take: their number, times the time that one takes to
leave. That time is measured over the last images to leave while there was always work to do; so the bound holds on any
hardware, for any mixture of models, without anybody naming a rate. Only images that must be computed are counted:
answers from the cache wait for nothing, and are given under any load.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import ceil
from time import monotonic

from service.errors import Overloaded

_MEASURED = 64
"""Departures that the rate is measured over."""

_ENOUGH = 8
"""Departures before a rate is believed: until then nothing is refused here, and the images in flight are the bound."""


class Backlog:
    """Counts the images that are being computed, and refuses one that would wait longer than `longest` seconds."""

    def __init__(self, longest: float, clock: Callable[[], float] = monotonic) -> None:
        self._longest = longest
        self._clock = clock
        self._inside = 0
        self._departures: deque[float] = deque(maxlen=_MEASURED)

    def wait(self) -> float:
        """Estimate how many seconds an image that came now would wait."""
        if len(self._departures) < _ENOUGH:
            return 0.0
        # Up to now, not to the last departure: while nothing leaves, the estimate grows.
        return self._inside * (self._clock() - self._departures[0]) / len(self._departures)

    def require(self) -> None:
        """Refuse an image now if `place` would, before anything is done for it.

        Raises:
            Overloaded: the wait would be too long; it tells when to come back.
        """
        expected = self.wait()
        if expected > self._longest:
            raise Overloaded(
                f"An image that came now would wait about {expected:.1f} s; at most {self._longest:g} s are allowed. "
                "Try again later.",
                retry_after=max(1, ceil(expected - self._longest)),
            )

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place while the block runs.

        Raises:
            Overloaded: as `require` does.
        """
        self.require()
        if not self._inside:
            # Time without work says nothing of how fast work is done.
            self._departures.clear()
            self._departures.append(self._clock())
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1
            self._departures.append(self._clock())
