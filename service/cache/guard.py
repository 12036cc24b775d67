"""Bound one kind of call by a time budget, and leave its other side alone for a while after a failure."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from service.cache.breaker import Breaker
from service.core.timeouts import Patience
from service.errors import CacheUnavailable
from service.telemetry.logs import Logger
from service.telemetry.metrics import Metrics

T = TypeVar("T")


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
        self._patience = Patience(budget)
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
            async with self._patience.bounded():
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
