"""Counters and histograms as TensorFlow Serving exposes them: Prometheus' text format, without HELP lines.

Not ``prometheus_client``, which adds ``_total`` to the names of counters and series of its own: dashboards and alerts
written for the real server ask for its names. Everything here is used from the event loop alone, so there are no locks.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate, repeat

Labels = tuple[str, ...]


def exponential(scale: float, growth: float, count: int) -> Sequence[float]:
    """Return ``count`` upper bounds of buckets, each ``growth`` times the one before; one without bound follows."""
    return list(accumulate(repeat(growth, count - 1), float.__mul__, initial=float(scale)))


class Counter:
    """Counts, by labels.

    Args:
        name: As scraped.
        labels: Names of the labels.
    """

    def __init__(self, name: str, *labels: str) -> None:
        self.name = name
        self._labels = labels
        self._values: dict[Labels, int] = {}

    def add(self, *labels: str, by: int = 1) -> None:
        """Count one more of these label values, or several."""
        self._values[labels] = self._values.get(labels, 0) + by

    def lines(self) -> Iterator[str]:
        """Write it out; nothing before the first use, as there."""
        if self._values:
            yield f"# TYPE {self.name} counter"
        for labels, value in self._values.items():
            yield f"{self.name}{{{_written(self._labels, labels)}}} {value}"


class Histogram:
    """Distributions, by labels.

    Args:
        name: As scraped, without suffix.
        bounds: Upper bounds of the buckets but the last, which has none.
        labels: Names of the labels.
    """

    def __init__(self, name: str, bounds: Sequence[float], *labels: str) -> None:
        self.name = name
        self._bounds = bounds
        self._labels = labels
        self._cells: dict[Labels, tuple[list[int], list[float]]] = {}

    def add(self, value: float, *labels: str) -> None:
        """Count one value."""
        counts, total = self._cells.setdefault(labels, ([0] * (len(self._bounds) + 1), [0.0]))
        counts[bisect_left(self._bounds, value)] += 1
        total[0] += value

    def lines(self) -> Iterator[str]:
        """Write it out; nothing before the first use, as there."""
        if self._cells:
            yield f"# TYPE {self.name} histogram"
        limits = [*(f"{bound:g}" for bound in self._bounds), "+Inf"]
        for labels, (counts, (total,)) in self._cells.items():
            written = _written(self._labels, labels)
            prefix = f"{written}," if written else ""
            for limit, count in zip(limits, accumulate(counts), strict=True):
                yield f'{self.name}_bucket{{{prefix}le="{limit}"}} {count}'
            yield f"{self.name}_sum{{{written}}} {total:.15g}"
            yield f"{self.name}_count{{{written}}} {sum(counts)}"


def _written(names: Labels, values: Labels) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True))


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
