"""Count the hits and misses of a tier."""

from collections.abc import Mapping, Sequence

from service.core.ports import VectorCache
from service.telemetry.metrics import Metrics


class Counts:
    """Hits and misses under the name of a tier."""

    def __init__(self, tier: str, metrics: Metrics) -> None:
        self._hits = metrics.cache_lookups.labels(tier, "hit")
        self._misses = metrics.cache_lookups.labels(tier, "miss")

    def count(self, values: Sequence[bytes | None]) -> None:
        """Count a lookup."""
        misses = values.count(None)
        if misses:
            self._misses.inc(misses)
        if misses < len(values):
            self._hits.inc(len(values) - misses)


class MeteredCache:
    """Counts the hits and misses of the inner cache. A lookup that failed is neither."""

    def __init__(self, inner: VectorCache, counts: Counts) -> None:
        self._inner = inner
        self._counts = counts

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the values in the order of the keys.

        Raises:
            CacheUnavailable: as the inner cache raises it.
        """
        values = await self._inner.get_many(keys)
        self._counts.count(values)
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
