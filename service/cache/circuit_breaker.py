"""A cache that is down is a cache that misses: a time budget for each call, and a circuit breaker.

After a failure the other side is not called for a window, and then by one probe.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import TypeVar

from service.core.ports import VectorCache
from service.core.timeouts import SharedTimeout
from service.errors import CacheUnavailable
from service.telemetry.logs import Logger
from service.telemetry.metrics import Metrics

T = TypeVar("T")

WRITE_SECONDS = 5.0
"""For a write. No caller waits for it, and on a busy processor many take longer than a caller waits for a read."""

_PROBE = "mt1:start"
"""A key that is read at start, and never written."""


class Breaker:
    """Closed: calls pass. Open: none passes for `window` seconds, then one probe does, which decides.

    One failure opens it: its caller has waited for the whole time budget, and no other caller shall.
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
        """Whether to call now. When the window is over, the first caller that is let through starts a new one."""
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


class Guard:
    """Bounds one kind of call by a time budget and a breaker. A failure is None, a count, and a line in the log."""

    def __init__(self, operation: str, *, budget: float, window: float, metrics: Metrics, log: Logger) -> None:
        """Guard one operation.

        Args:
            operation: its name in metrics and logs, `read`, `write` or `claim`.
            budget: seconds that one call may take.
            window: seconds without calls after a failure.
            metrics: count failures and show the breaker.
            log: told when the breaker opens and closes.
        """
        self._operation = operation
        self._budget = budget
        self._timeout = SharedTimeout(budget)
        self._breaker = Breaker(window)
        self._metrics = metrics
        self._log = log

    @property
    def is_open(self) -> bool:
        """True from a failure until the next success."""
        return self._breaker.is_open

    async def call(self, function: Callable[[], Awaitable[T]]) -> T | None:
        """Call and return the answer; None when it failed, took too long, or was not tried."""
        breaker = self._breaker
        if not breaker.allows():
            return None
        try:
            async with self._timeout.bounded():
                result = await function()
        except (CacheUnavailable, TimeoutError) as error:
            # Asked now: another call may have opened or closed it meanwhile.
            was_open = breaker.is_open
            breaker.failed()
            self._metrics.cache_failures.inc()
            self._metrics.cache_breaker_open.labels(self._operation).set(1)
            if not was_open:
                reason = str(error) or f"no answer within {self._budget} s"
                self._log.warning("cache_down", operation=self._operation, reason=reason)
            return None
        if breaker.is_open:
            breaker.succeeded()
            self._metrics.cache_breaker_open.labels(self._operation).set(0)
            # As loud as what it takes back.
            self._log.warning("cache_up", operation=self._operation)
        return result


class FailOpenCache:
    """Guards every call of the inner cache. Raises nothing.

    Reads, writes and claims have a guard each: a cache that is full, or a read-only replica, still answers what it has,
    and one that refuses claims keeps vectors. A caller waits for reads and claims, and none for a write.
    """

    def __init__(  # noqa: PLR0913, collaborators
        self,
        inner: VectorCache,
        *,
        budget: float,
        window: float,
        metrics: Metrics,
        log: Logger,
        write_budget: float = WRITE_SECONDS,
    ) -> None:
        """Guard `inner`.

        Args:
            inner: the cache that may be down.
            budget: seconds that a read or a claim may take.
            window: seconds without calls after a failure.
            metrics: count failures and show the breakers.
            log: told when a breaker opens and closes.
            write_budget: seconds that a write may take.
        """
        self._inner = inner
        self._window = window
        self.reads = Guard("read", budget=budget, window=window, metrics=metrics, log=log)
        self.writes = Guard("write", budget=write_budget, window=window, metrics=metrics, log=log)
        self.claims = Guard("claim", budget=budget, window=window, metrics=metrics, log=log)

    async def until_found(self) -> None:
        """Read until an answer comes. At start: the log tells when none does, and no request need find it out."""
        # First with the time that connecting may take, which is no sign of trouble.
        with suppress(CacheUnavailable, TimeoutError):
            async with asyncio.timeout(WRITE_SECONDS):
                await self._inner.get_many([_PROBE])
        while await self.reads.call(partial(self._inner.get_many, [_PROBE])) is None:  # noqa: ASYNC110, Redis tells none
            await asyncio.sleep(self._window)

    def trouble(self) -> str | None:
        """Return, for people, which operations are not tried after a failure; None when all are."""
        left = [name for name, guard in (("reads", self.reads), ("writes", self.writes)) if guard.is_open]
        return f"Left alone after a failure: {' and '.join(left)}." if left else None

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the values in the order of the keys; all None when the cache is down."""
        return await self.reads.call(partial(self._inner.get_many, keys)) or [None] * len(keys)

    async def put_many(self, entries: Mapping[str, bytes]) -> None:
        """Store values; they are lost when the cache is down."""
        await self.writes.call(partial(self._inner.put_many, entries))

    async def close(self) -> None:
        """Close the inner cache."""
        await self._inner.close()
