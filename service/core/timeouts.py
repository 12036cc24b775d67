"""One timer for all that waits equally long: the oldest is always the first whose time is over.

A timer of the event loop for each costs more than most of what is waited for, and nearly all of them are cancelled.
"""

import asyncio
from collections.abc import Callable
from types import TracebackType

ONE_TURN = 0.001
"""Seconds in which the event loop looks at its sockets once more."""


class Alarms:
    """Each rings a fixed time after it was set, unless it is stopped before. For one event loop; no locks."""

    def __init__(self, seconds: float) -> None:
        """Let each ring `seconds` after it was set."""
        self._seconds = seconds
        self._set: dict[int, tuple[float, Callable[[], None]]] = {}
        self._number = 0
        self._timer: asyncio.TimerHandle | None = None

    def set(self, ring: Callable[[], None]) -> int:
        """Have `ring` called when the time is over; returns what `stop` wants."""
        loop = asyncio.get_running_loop()
        at = loop.time() + self._seconds
        self._number += 1
        self._set[self._number] = (at, ring)
        if self._timer is None:
            self._timer = loop.call_at(at, self._look, loop)
        return self._number

    def stop(self, number: int) -> None:
        """Let one not ring; nothing happens if it has. The timer stays for those that come later."""
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


class Patience:
    """Bounds blocks by the same time each, as `asyncio.timeout` bounds one."""

    def __init__(self, seconds: float) -> None:
        """Allow each block `seconds`."""
        self._alarms = Alarms(seconds)

    def bounded(self) -> "_Bounded":
        """Cancel the block when its time is over, and raise TimeoutError."""
        return _Bounded(self._alarms)


class _Bounded:
    """A process that stood still itself does not blame the other side.

    After a pause the event loop looks at its timers before its sockets, where the answer may lie: so when the time is
    over, the sockets have one more turn.
    """

    __slots__ = ("_alarm", "_alarms", "_before", "_over", "_task")

    def __init__(self, alarms: Alarms) -> None:
        self._alarms = alarms
        self._over = False
        self._task: asyncio.Task[object] | None = None

    async def __aenter__(self) -> None:
        self._task = asyncio.current_task()
        assert self._task is not None  # noqa: S101, for mypy: we are in a coroutine
        self._before = self._task.cancelling()
        self._alarm = self._alarms.set(self._ring)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._alarms.stop(self._alarm)
        task, self._task = self._task, None
        # Who was cancelled by somebody else, too, stays cancelled.
        if task and self._over and task.uncancel() <= self._before and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def _ring(self) -> None:
        asyncio.get_running_loop().call_later(ONE_TURN, self._end)

    def _end(self) -> None:
        if self._task is not None:
            self._over = True
            self._task.cancel()
