"""Metrics under TensorFlow Serving's names, in Prometheus' text format. All durations are microseconds.

As in TensorFlow Serving: requests are counted by the model's name as the caller wrote it, so unknown names make series
too; latency is that of successes; over gRPC only the inference methods count, over REST every call, probes included.

Not ``prometheus_client``, which adds ``_total`` to the names of counters and series of its own: dashboards and alerts
written for the real server would find nothing. The event loop writes all metrics but those of loads, whose series
belong to one version and so to one thread.
"""

import asyncio
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, repeat
from pathlib import Path

from modelserver.errors import ServingError

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
        """Return its lines; none before the first use, as in the real server."""
        if self._values:
            yield f"# TYPE {self.name} counter"
        for labels, value in list(self._values.items()):
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
        """Return its lines; none before the first use, as in the real server."""
        if self._cells:
            yield f"# TYPE {self.name} histogram"
        limits = [*(f"{bound:g}" for bound in self._bounds), "+Inf"]
        for labels, (counts, (total,)) in list(self._cells.items()):
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


_REQUEST_BOUNDS = exponential(10, 1.8, 33)
_QUEUING_BOUNDS = exponential(100, 1.2, 52)
_SIZE_BOUNDS = exponential(1, 2, 16)

_RUNTIME = "TF1"
_THREAD_POOL = ""
"""The real server leaves this label empty."""


class Metrics:
    """All metrics of the process."""

    def __init__(self) -> None:
        serving, batching = ":tensorflow:serving:", ":tensorflow:serving:batching_session:"
        self._requests = Counter(f"{serving}request_count", "model_name", "status")
        self._request_latency = Histogram(
            f"{serving}request_latency", _REQUEST_BOUNDS, "model_name", "API", "entrypoint"
        )
        self._runtime_latency = Histogram(f"{serving}runtime_latency", _REQUEST_BOUNDS, "model_name", "API", "runtime")
        self._queuing_latency = Histogram(f"{batching}queuing_latency", _QUEUING_BOUNDS, "thread_pool_name")
        self._input_size = Histogram(f"{batching}input_batch_size", _SIZE_BOUNDS)
        self._processed_size = Histogram(f"{batching}processed_batch_size", _SIZE_BOUNDS)
        self._padding_size = Histogram(f"{batching}padding_size", _SIZE_BOUNDS, "execution_batch_size")
        self._wrapped_runs = Counter(f"{batching}wrapped_run_count")
        self._warm_up_latency = Histogram(f"{serving}model_warmup_latency", _REQUEST_BOUNDS, "model_path", "status")
        self._loads = Counter(":tensorflow:cc:saved_model:load_attempt_count", "model_path", "status")
        self._load_latency = Counter(":tensorflow:cc:saved_model:load_latency", "model_path")

    @contextmanager
    def call(self, model: str, api: str) -> Iterator[None]:
        """Count a ``with`` block as one call over gRPC: its status and, of a success, its duration."""
        began, status = time.monotonic(), "OK"
        try:
            yield
        except BaseException as error:
            status = "CANCELLED" if isinstance(error, asyncio.CancelledError) else "INTERNAL"
            if isinstance(error, ServingError):
                status = error.code.name
            raise
        else:
            self.answered(model, api, "GRPC", time.monotonic() - began)
        finally:
            self.request(model, status)

    def request(self, model: str, status: str) -> None:
        """Count one request and its status, ``OK`` or the name of an error."""
        self._requests.add(model, status)

    def answered(self, model: str, api: str, entrypoint: str, seconds: float) -> None:
        """Record the duration of a successful request, queue included; entry point ``GRPC`` or ``REST``."""
        self._request_latency.add(seconds * 1e6, model, api, entrypoint)

    def computed(self, model: str, api: str, seconds: float) -> None:
        """Record the duration of a model's run, with the wait for a batch."""
        self._runtime_latency.add(seconds * 1e6, model, api, _RUNTIME)

    def enqueued(self, rows: int) -> None:
        """Record the rows of an input that waits for a batch."""
        self._input_size.add(rows)

    def dequeued(self, seconds: float) -> None:
        """Record the time that a request waited for its batch to begin."""
        self._queuing_latency.add(seconds * 1e6, _THREAD_POOL)

    def batch(self, rows: int, padded: int) -> None:
        """Record a batch that runs: its rows without and with padding."""
        self._processed_size.add(padded)
        self._padding_size.add(padded - rows, str(padded))
        self._wrapped_runs.add()

    def loaded(self, version_dir: Path, seconds: float | None) -> None:
        """Count one try to load a SavedModel: its duration without warm-up, or None when it failed."""
        self._loads.add(str(version_dir), "fail" if seconds is None else "success")
        if seconds is not None:
            self._load_latency.add(str(version_dir), by=round(seconds * 1e6))

    def warmed_up(self, version_dir: Path, seconds: float) -> None:
        """Record the duration of a version's warm-up; as in the real server, a failing one is not recorded."""
        self._warm_up_latency.add(seconds * 1e6, str(version_dir), "OK")

    def page(self) -> str:
        """Return all of them in Prometheus' text format."""
        return "\n".join(line for metric in vars(self).values() for line in metric.lines()) + "\n"
