"""Count the hits and misses of a tier."""

from collections.abc import Sequence

from service.telemetry.metrics import Metrics


class HitCounter:
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
