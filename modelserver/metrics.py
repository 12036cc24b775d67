"""What is counted, under TensorFlow Serving's names. All durations are microseconds.

Counted as there: requests by the model's name as the caller wrote it, so unknown names make series too; latency of
successes alone; over gRPC only the inference methods, over REST every call, probes included.
"""

import asyncio
import time
from pathlib import Path

from modelserver.errors import ServingError
from modelserver.exposition import Counter, Histogram, exponential

_REQUEST_BOUNDS = exponential(10, 1.8, 33)
_QUEUING_BOUNDS = exponential(100, 1.2, 52)
_SIZE_BOUNDS = exponential(1, 2, 16)

_RUNTIME = "TF1"
_THREAD_POOL = ""
"""The real server does not pass the pool's name on, and its label is empty."""


class Metrics:
    """Every metric of the process."""

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

    def call(self, model: str, api: str) -> "Call":
        """Count what a ``with`` block does as one call over gRPC: how it ended and, if well, how long it took."""
        return Call(self, model, api)

    def request(self, model: str, status: str) -> None:
        """Count one request and how it ended, ``OK`` or the name of a status."""
        self._requests.add(model, status)

    def answered(self, model: str, api: str, entrypoint: str, seconds: float) -> None:
        """Record how long a request took that succeeded, queue included; entry point ``GRPC`` or ``REST``."""
        self._request_latency.add(seconds * 1e6, model, api, entrypoint)

    def computed(self, model: str, api: str, seconds: float) -> None:
        """Record how long the model took, with the wait for a batch."""
        self._runtime_latency.add(seconds * 1e6, model, api, _RUNTIME)

    def enqueued(self, rows: int) -> None:
        """Record the rows of an input that waits for a batch."""
        self._input_size.add(rows)

    def dequeued(self, seconds: float) -> None:
        """Record how long a request waited for its batch to begin."""
        self._queuing_latency.add(seconds * 1e6, _THREAD_POOL)

    def batch(self, rows: int, padded: int) -> None:
        """Record a batch that runs: the rows that were asked for, and those with padding."""
        self._processed_size.add(padded)
        self._padding_size.add(padded - rows, str(padded))
        self._wrapped_runs.add()

    def loaded(self, version_dir: Path, seconds: float | None) -> None:
        """Count one try to load a SavedModel: how long it took, or None when it failed. Warm-up is not part of it."""
        self._loads.add(str(version_dir), "fail" if seconds is None else "success")
        if seconds is not None:
            self._load_latency.add(str(version_dir), by=round(seconds * 1e6))

    def warmed_up(self, version_dir: Path, seconds: float) -> None:
        """Record how long the warm-up of a version took that has records; one that fails is not told, as there."""
        self._warm_up_latency.add(seconds * 1e6, str(version_dir), "OK")

    def page(self) -> str:
        """Write all of them out, as Prometheus reads them."""
        return "\n".join(line for metric in vars(self).values() for line in metric.lines()) + "\n"


class Call:
    """One call over gRPC, counted when its block ends; see ``Metrics.call``."""

    __slots__ = ("_api", "_began", "_metrics", "_model")

    def __init__(self, metrics: Metrics, model: str, api: str) -> None:
        self._metrics = metrics
        self._model = model
        self._api = api

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            self._metrics.request(self._model, "OK")
            self._metrics.answered(self._model, self._api, "GRPC", time.monotonic() - self._began)
        elif isinstance(error, ServingError):
            self._metrics.request(self._model, error.code.name)
        else:
            self._metrics.request(self._model, "CANCELLED" if isinstance(error, asyncio.CancelledError) else "INTERNAL")
