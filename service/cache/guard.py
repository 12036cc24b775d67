"""Bound one kind of call by a time budget, and leave its other side alone for a while after a failure."""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TypeVar

from service.cache.breaker import Breaker
from service.errors import CacheUnavailable
from service.telemetry.logs import Logger
from service.telemetry.metrics import Metrics

T = TypeVar("T")

ONE_TURN = 0.001
"""Seconds in which the event loop looks at its sockets once more."""


class Guard:
    """Raises nothing: a failure is None, a count, and one line in the log when the state changes."""

    def __init__(self, operation: str, *, budget: float, window: float, metrics: Metrics, log: Logger) -> None:
        """Guard one operation.

        Args:
            operation: its name in metrics and logs, `read` or `write`.
            budget: seconds that one call may take.
            window: seconds without calls after a failure.
            metrics: count failures and show the breaker.
            log: says when the breaker opens and closes.
        """
        self._operation = operation
        self._budget = budget
        self._breaker = Breaker(window)
        self._metrics = metrics
        self._log = log

    @property
    def is_open(self) -> bool:
        """True from a failure until the next success."""
        return self._breaker.is_open

    async def call(self, ask: Callable[[], Awaitable[T]]) -> T | None:
        """Call and return the answer; None when it failed, took too long, or was not tried."""
        breaker = self._breaker
        if not breaker.allows():
            return None
        was_open = breaker.is_open
        try:
            async with _within(self._budget):
                result = await ask()
        except (CacheUnavailable, TimeoutError) as error:
            breaker.failed()
            self._metrics.cache_failures.inc()
            self._metrics.cache_breaker_open.labels(self._operation).set(1)
            if not was_open:
                reason = str(error) or f"no answer within {self._budget} s"
                self._log.warning("cache_down", operation=self._operation, reason=reason)
            return None
        breaker.succeeded()
        if was_open:
            self._metrics.cache_breaker_open.labels(self._operation).set(0)
            self._log.info("cache_up", operation=self._operation)
        return result


class _within:  # noqa: N801, reads like asyncio.timeout
    """`asyncio.timeout`, but a process that stood still itself does not blame the other side.

    After a pause the event loop looks at its timers before its sockets, where the answer may lie: so when the time is
    over, the sockets have one more turn.
    """

    __slots__ = ("_seconds", "_timeout", "_timer")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timeout = asyncio.timeout(None)

    async def __aenter__(self) -> None:
        loop = asyncio.get_running_loop()
        await self._timeout.__aenter__()
        self._timer = loop.call_later(self._seconds, lambda: self._timeout.reschedule(loop.time() + ONE_TURN))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        await self._timeout.__aexit__(kind, error, trace)
