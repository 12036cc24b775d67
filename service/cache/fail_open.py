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

    Raises nothing: a failure is a miss, a count and one line in the log when the state changes. Reads and writes have
    a breaker each, since a cache that is full or a read-only replica still answers what it has.
    """

    def __init__(self, inner: VectorCache, *, budget: float, window: float, metrics: Metrics, log: Logger) -> None:
        """Guard `inner`.

        Args:
            inner: the cache that may be down.
            budget: seconds that one call may take.
            window: seconds that it is left alone after a failure.
            metrics: count failures and show the breakers.
            log: says when a breaker opens and closes.
        """
        self._inner = inner
        self._budget = budget
        self._reads, self._writes = Breaker(window), Breaker(window)
        self._metrics = metrics
        self._log = log

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the values in the order of the keys; all None when the cache cannot be asked."""
        values = await self._guarded("read", self._reads, self._inner.get_many(keys)) if self._reads.allows() else None
        return values or [None] * len(keys)

    async def put_many(self, entries: Mapping[str, bytes]) -> None:
        """Store values, or not."""
        if self._writes.allows():
            await self._guarded("write", self._writes, self._inner.put_many(entries))

    async def close(self) -> None:
        """Close the inner cache."""
        await self._inner.close()

    async def _guarded(self, operation: str, breaker: Breaker, call: Awaitable[T]) -> T | None:
        was_open = breaker.is_open
        try:
            async with asyncio.timeout(self._budget):
                result = await call
        except (CacheUnavailable, TimeoutError) as error:
            breaker.failed()
            self._metrics.cache_failures.inc()
            self._metrics.cache_breaker_open.labels(operation).set(1)
            if not was_open:
                self._log.warning(
                    "cache_down", operation=operation, reason=str(error) or f"no answer within {self._budget} s"
                )
            return None
        breaker.succeeded()
        self._metrics.cache_breaker_open.labels(operation).set(0)
        if was_open:
            self._log.info("cache_up", operation=operation)
        return result
