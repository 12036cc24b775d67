"""A cache that is down is a cache that misses, never a request that fails."""

from collections.abc import Mapping, Sequence
from functools import partial

from service.cache.guard import Guard
from service.core.ports import VectorCache
from service.telemetry.logs import Logger
from service.telemetry.metrics import Metrics


class FailOpenCache:
    """Bounds every call of the inner cache by a time budget, and stops asking for a while after a failure.

    Raises nothing. Reads and writes have a guard each, since a cache that is full or a read-only replica still answers
    what it has.
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
        self.reads = Guard("read", budget=budget, window=window, metrics=metrics, log=log)
        self.writes = Guard("write", budget=budget, window=window, metrics=metrics, log=log)

    def trouble(self) -> str | None:
        """Say, for people, what the cache is not asked for after a failure; None when that is nothing."""
        left = [name for name, guard in (("reads", self.reads), ("writes", self.writes)) if guard.is_open]
        return f"Left alone after a failure: {' and '.join(left)}." if left else None

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the values in the order of the keys; all None when the cache cannot be asked."""
        return await self.reads.call(partial(self._inner.get_many, keys)) or [None] * len(keys)

    async def put_many(self, entries: Mapping[str, bytes]) -> None:
        """Store values, or not."""
        await self.writes.call(partial(self._inner.put_many, entries))

    async def close(self) -> None:
        """Close the inner cache."""
        await self._inner.close()
