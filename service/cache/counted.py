"""Count what a tier had and what it lacked."""

from collections.abc import Mapping, Sequence

from service.embedding.peeking import peek_of
from service.embedding.ports import VectorCache
from service.telemetry.metrics import Metrics


class CountedCache:
    """Counts the inner cache's hits and misses under the name of its tier. A question that failed is neither."""

    def __init__(self, inner: VectorCache, tier: str, metrics: Metrics) -> None:
        self._inner = inner
        self._peek = peek_of(inner)
        self._hits = metrics.cache_lookups.labels(tier, "hit")
        self._misses = metrics.cache_lookups.labels(tier, "miss")

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the values in the order of the keys.

        Raises:
            CacheUnavailable: as the inner cache raises it.
        """
        values = await self._inner.get_many(keys)
        misses = values.count(None)
        if misses:
            self._misses.inc(misses)
        if misses < len(values):
            self._hits.inc(len(values) - misses)
        return values

    def peek(self, keys: Sequence[str]) -> list[bytes] | None:
        """Return all the values if they are within reach, and count them; what is not is counted when it is got."""
        values = self._peek(keys)
        if values is not None:
            self._hits.inc(len(values))
        return values

    async def put_many(self, entries: Mapping[str, bytes]) -> None:
        """Store values.

        Raises:
            CacheUnavailable: as the inner cache raises it.
        """
        await self._inner.put_many(entries)

    async def close(self) -> None:
        """Close the inner cache."""
        await self._inner.close()
