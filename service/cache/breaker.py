"""A circuit breaker: after a failure nobody asks again until the window is over, and then one at a time."""

from collections.abc import Callable
from time import monotonic


class Breaker:
    """Closed: everybody may ask. Open: nobody, for `window` seconds. Then one probe decides.

    One failure opens it: its caller has paid the whole time budget, and nobody else shall.
    """

    def __init__(self, window: float, clock: Callable[[], float] = monotonic) -> None:
        self._window = window
        self._clock = clock
        self._open_until: float | None = None

    @property
    def is_open(self) -> bool:
        """True from a failure until the next success."""
        return self._open_until is not None

    def allows(self) -> bool:
        """Say whether to ask now. When the window is over, the first caller who is let through opens a new one."""
        if self._open_until is None:
            return True
        if self._clock() < self._open_until:
            return False
        self._open_until = self._clock() + self._window
        return True

    def succeeded(self) -> None:
        """Close the circuit."""
        self._open_until = None

    def failed(self) -> None:
        """Open the circuit for a window."""
        self._open_until = self._clock() + self._window
