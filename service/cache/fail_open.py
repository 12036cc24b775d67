"""A cache that is down is a cache that misses, never a request that fails."""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from typing import TypeVar

from service.cache.breaker import Breaker
from service.embedding.ports import VectorCache
from service.errors import CacheUnavailable
from service.telemetry.logs import Logger
from service.telemetry.metrics import Metrics

T = TypeVar("T")


class FailOpenCache:
    """Bounds every call of the inner cache by a time budget, and stops asking for a while after a failure.

    Raises nothing: a failure is a miss, a count and one line in the log when the state changes.
    """

    def __init__(self, inner: VectorCache, *, budget: float, breaker: Breaker, metrics: Metrics, log: Logger) -> None:
        self._inner = inner
        self._budget = budget
        self._breaker = breaker
        self._metrics = metrics
        self._log = log

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the values in the order of the keys; all None when the cache cannot be asked."""
        values = await self._guarded(self._inner.get_many(keys)) if self._breaker.allows() else None
        return values or [None] * len(keys)

    async def put_many(self, entries: Mapping[str, bytes]) -> None:
        """Store values, or not."""
        if self._breaker.allows():
            await self._guarded(self._inner.put_many(entries))

    async def close(self) -> None:
        """Close the inner cache."""
        await self._inner.close()

    async def _guarded(self, call: Awaitable[T]) -> T | None:
        was_open = self._breaker.is_open
        try:
            async with asyncio.timeout(self._budget):
                result = await call
        except (CacheUnavailable, TimeoutError) as error:
            self._breaker.failed()
            self._metrics.cache_failures.inc()
            self._metrics.cache_breaker_open.set(1)
            if not was_open:
                self._log.warning("cache_down", reason=str(error) or f"no answer within {self._budget} s")
            return None
        self._breaker.succeeded()
        self._metrics.cache_breaker_open.set(0)
        if was_open:
            self._log.info("cache_up")
        return result
