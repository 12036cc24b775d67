"""Time limits: a shared timer for many waits of the same length, a request's deadline, and that of shared work.

A timer of the event loop for each wait costs more than most waits do, and nearly all of them are cancelled.
"""

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from math import inf
from time import monotonic
from types import TracebackType

from microtome.errors import DeadlineExceeded

_ONE_TURN = 0.001
"""Seconds in which the event loop looks at its sockets once more."""

_deadline: ContextVar[float] = ContextVar("microtome_deadline", default=inf)


class SharedTimer:
    """Calls functions a fixed time after each was added, with one timer: the oldest always expires first.

    For one event loop; no locks.
    """

    def __init__(self, seconds: float) -> None:
        """Call each function `seconds` after it was added."""
        self._seconds = seconds
        self._set: dict[int, tuple[float, Callable[[], None]]] = {}
        self._number = 0
        self._timer: asyncio.TimerHandle | None = None

    def set(self, ring: Callable[[], None]) -> int:
        """Add a function; returns the number that `stop` takes."""
        loop = asyncio.get_running_loop()
        at = loop.time() + self._seconds
        self._number += 1
        self._set[self._number] = (at, ring)
        if self._timer is None:
            self._timer = loop.call_at(at, self._look, loop)
        return self._number

    def stop(self, number: int) -> None:
        """Remove a function, if it has not been called. The timer stays for those that are added later."""
        self._set.pop(number, None)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        while self._set:
            number, (at, ring) = next(iter(self._set.items()))
            if at > loop.time():
                self._timer = loop.call_at(at, self._look, loop)
                return
            del self._set[number]
            ring()


class SharedTimeout:
    """Bounds blocks by the same time each, as `asyncio.timeout` bounds one."""

    def __init__(self, seconds: float) -> None:
        """Allow each block `seconds`."""
        self._timer = SharedTimer(seconds)

    def bounded(self) -> "_Bounded":
        """Cancel the block when its time is over, and raise TimeoutError."""
        return _Bounded(self._timer)


class _Bounded:
    """After a pause of this process the event loop handles timers before sockets, where the answer may be.

    So when the time is over, the sockets have one more turn: the other side is not blamed for our pause.
    """

    __slots__ = ("_before", "_number", "_over", "_task", "_timer")

    def __init__(self, timer: SharedTimer) -> None:
        self._timer = timer
        self._over = False
        self._task: asyncio.Task[object] | None = None

    async def __aenter__(self) -> None:
        self._task = asyncio.current_task()
        assert self._task is not None  # noqa: S101, for mypy: we are in a coroutine
        self._before = self._task.cancelling()
        self._number = self._timer.set(self._ring)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.stop(self._number)
        task, self._task = self._task, None
        # A task that was cancelled from elsewhere too stays cancelled.
        if task and self._over and task.uncancel() <= self._before and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def _ring(self) -> None:
        asyncio.get_running_loop().call_later(_ONE_TURN, self._end)

    def _end(self) -> None:
        if self._task is not None:
            self._over = True
            self._task.cancel()


def _nothing() -> None:
    """Nothing waits."""


class Deadline:
    """When the last request that waits for some work gives up, and whether it has time until then.

    Attributes:
        at: as `time.monotonic` counts; infinite without a time limit. A request that joins may extend it.
        bulk: whether interactive work goes first. It ends when an interactive request joins.
        hurried: called when it ends; set by what the work waits for.
    """

    __slots__ = ("at", "bulk", "hurried")

    def __init__(self, at: float = inf, *, bulk: bool = False) -> None:
        self.at = at
        self.bulk = bulk
        self.hurried: Callable[[], object] = _nothing

    def extend(self, at: float) -> None:
        """Wait at least until then."""
        self.at = max(self.at, at)

    def hurry(self) -> None:
        """An interactive request waits for this work from now on."""
        if self.bulk:
            self.bulk = False
            self.hurried()

    def left(self) -> float:
        """Seconds until then; negative when it is over."""
        return self.at - monotonic()


class within:  # noqa: N801, a context manager; no generator, which costs more: it runs with every request
    """Cancel the block when its time is over; work that is started in it has this deadline.

    Args:
        seconds: that the block may take.
        of: the time that was allowed, which the error names; more than `seconds` when some of it has been used.

    Raises:
        DeadlineExceeded: its time was over.
    """

    __slots__ = ("_before", "_of", "_seconds", "_timeout")

    def __init__(self, seconds: float, of: float | None = None) -> None:
        self._seconds = seconds
        self._of = seconds if of is None else of
        self._timeout = asyncio.timeout(seconds)

    async def __aenter__(self) -> None:
        self._before = _deadline.set(min(_deadline.get(), monotonic() + self._seconds))
        await self._timeout.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _deadline.reset(self._before)
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            raise DeadlineExceeded(f"No answer within {self._of:g} s, the time allowed for this request.") from None


def current_deadline() -> float:
    """Return the deadline of the present request, as `time.monotonic` counts."""
    return _deadline.get()
