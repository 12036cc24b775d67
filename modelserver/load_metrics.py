"""Takes what loading threads tell to the event loop, where all metrics are counted."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from modelserver.metrics import Metrics


class LoadMetrics:
    """Counts loads. Made on the event loop; its methods may be called from any thread.

    Args:
        metrics: Where they are counted.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()

    def loaded(self, version_dir: Path, seconds: float | None) -> None:
        """Count one try to load; see ``Metrics.loaded``."""
        self._on_the_loop(self._metrics.loaded, version_dir, seconds)

    def warmed_up(self, version_dir: Path, seconds: float) -> None:
        """Record one warm-up; see ``Metrics.warmed_up``."""
        self._on_the_loop(self._metrics.warmed_up, version_dir, seconds)

    def _on_the_loop(self, count: Callable[..., None], *what: object) -> None:
        with suppress(RuntimeError):  # it has ended, and the process is about to
            self._loop.call_soon_threadsafe(count, *what)
