"""Until when an answer is waited for: by one caller, and by all who wait for the same work."""

import asyncio
from contextvars import ContextVar
from math import inf
from time import monotonic
from types import TracebackType

from service.core.timeouts import Patience
from service.errors import DeadlineExceeded

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


class within:  # noqa: N801, reads like the function that it was, and costs less: it runs with every request
    """Cancel the block when its time is over; what is asked for in it is waited for so long.

    Args:
        seconds: that the block may take.
        patience: of all blocks that may take so long, where there are many; without it the block has its own timer.

    Raises:
        DeadlineExceeded: its time was over.
    """

    __slots__ = ("_before", "_seconds", "_timeout")

    def __init__(self, seconds: float, patience: Patience | None = None) -> None:
        self._seconds = seconds
        self._timeout = asyncio.timeout(seconds) if patience is None else patience.bounded()

    async def __aenter__(self) -> None:
        self._before = _current.set(min(_current.get(), monotonic() + self._seconds))
        await self._timeout.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _current.reset(self._before)
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            raise DeadlineExceeded(
                f"No answer within {self._seconds:g} s, the time allowed for this request."
            ) from None


def current() -> float:
    """Until when the present caller waits, as `time.monotonic` counts."""
    return _current.get()
