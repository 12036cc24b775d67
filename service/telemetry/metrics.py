"""All metrics of the gateway.

Labels are bounded: a model's name becomes a label only when that model is served here, a route only when it exists.
docs/reference/metrics.md is generated from here.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import Context
from functools import partial
from typing import NamedTuple, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.gc_collector import GCCollector
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from microtome.errors import Overloaded, ServiceError, slug

Encoder = Callable[[Collector], bytes]
"""Writes what a registry has."""


def exposition_format(accept: str) -> tuple[Encoder, str]:
    """Return the format that an Accept header asks for, OpenMetrics or Prometheus' own, and its media type."""
    try:
        return choose_encoder(accept)
    except (TypeError, ValueError):
        # The library fails on a version that is no number.
        return choose_encoder("")


_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


_SHARED = "PROMETHEUS_MULTIPROC_DIR" in os.environ
"""True in a worker, whose metrics are files; the library reads the same variable when it is imported."""


_BATCH = 1 if _SHARED else 64
"""Observations passed to the library together. Workers pass each immediately: any worker may read the files."""


_NOTHING = nullcontext()


class Described(NamedTuple):
    """One metric, for documentation; a counter's name is the one on the wire, with `_total`."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str


_Metric = TypeVar("_Metric", Counter, Histogram)


class _Children(dict[tuple[str, ...], _Metric]):
    """A metric's children by label values, made on first use."""

    def __init__(self, parent: _Metric) -> None:
        self._parent: _Metric = parent

    def __missing__(self, values: tuple[str, ...]) -> _Metric:
        child: _Metric = self._parent.labels(*values)
        self[values] = child
        return child


class _Buffer(Collector):
    """Buffers observations until the library collects metrics, or until there are many.

    Between other work an observation costs several times as much as in a row, and a request makes a dozen.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register first, so that it is collected before the metrics."""
        self._observed: list[tuple[Histogram, float]] = []
        self._levels: dict[Gauge, float] = {}
        self._counted: dict[Counter, int] = {}
        registry.register(self)

    def observe(self, histogram: Histogram, amount: float) -> None:
        """Buffer an observation."""
        self._observed.append((histogram, amount))
        if len(self._observed) >= _BATCH:
            self._flush()

    def count(self, counter: Counter, amount: int) -> None:
        """Buffer an increment."""
        if _SHARED:
            counter.inc(amount)
        else:
            self._counted[counter] = self._counted.get(counter, 0) + amount

    def level(self, gauge: Gauge) -> Callable[[float], object]:
        """Return a function that sets a gauge; the last value counts."""
        return gauge.set if _SHARED else partial(self._levels.__setitem__, gauge)

    def describe(self) -> Iterable[Metric]:
        """Return nothing: these are the metrics of other collectors."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Flush to the metrics, which are collected next."""
        self._flush()
        return ()

    def _flush(self) -> None:
        observed, self._observed = self._observed, []
        for histogram, amount in observed:
            histogram.observe(amount)
        for gauge, level in self._levels.items():
            gauge.set(level)
        self._levels.clear()
        for counter, amount in self._counted.items():
            counter.inc(amount)
        self._counted.clear()


class Metrics:
    """The gateway's metrics in a registry of their own. Implements the core's `Observer`."""

    def __init__(self) -> None:
        # They would double the number of series.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        registry = self.registry = CollectorRegistry()
        self._buffer = _Buffer(registry)
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        counter = partial(Counter, registry=registry)
        gauge = partial(Gauge, registry=registry, multiprocess_mode="livesum")
        histogram = partial(Histogram, registry=registry, buckets=_SECONDS)
        self.requests = counter(
            "microtome_requests",
            "Requests answered, by route and HTTP status. gRPC's routes are `grpc:METHOD`, counted by the status that "
            "their code stands for; each image of a stream is a request. `other` is all that reaches no route, since "
            "there is none or the key is missing.",
            ["route", "status"],
        )
        self.request_seconds = histogram(
            "microtome_request_seconds",
            "Seconds from the request's first byte to the answer's last, by route.",
            ["route"],
        )
        self.stage_seconds = histogram(
            "microtome_stage_seconds",
            "Seconds spent in a stage of a request: read, hash, fetch, cache, elsewhere (another gateway "
            "computes it), decode, tokenize, queue, infer, encode.",
            ["stage"],
        )
        self.vectors = counter(
            "microtome_vectors",
            "Vectors answered, by model and by where they came from: `hit`, `miss`, or `coalesced` with another.",
            ["model", "cache"],
        )
        self.images = counter("microtome_images", "Encoded images that came whole, however they were sent.")
        self.image_bytes = counter("microtome_image_bytes", "Bytes of these images.")
        self.images_in_flight = gauge("microtome_images_in_flight", "Images that are being worked on now.")
        self.bulk_images_in_flight = gauge(
            "microtome_bulk_images_in_flight", "Those of them that came in requests with `priority=bulk`."
        )
        self.body_bytes_in_flight = gauge(
            "microtome_body_bytes_in_flight", "Bytes of request bodies that are held now."
        )
        self.decode_bytes_in_flight = gauge(
            "microtome_decode_bytes_in_flight", "Bytes of memory that the images being decoded now need at most."
        )
        self.queued_images = gauge(
            "microtome_queued_images",
            "Decoded images that wait for a place in a batch, by priority (`interactive`, `bulk`).",
            ["priority"],
        )
        self.queue_seconds = histogram(
            "microtome_queue_seconds",
            "Seconds that a decoded image waited for a place in a batch, by the priority that it had at last.",
            ["priority"],
        )
        self.batch_images = histogram(
            "microtome_batch_images",
            "Images in a call of the model server, by model.",
            ["model"],
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
        )
        self.errors = counter("microtome_errors", "Requests that ended in an error, by the error's name.", ["error"])
        self.overloads = counter(
            "microtome_overloads",
            "Requests refused since there was too much work, by the limit that was reached: `images` or `bytes` in "
            "flight, those of an API key (`key-images`, `key-bytes`, `key-requests-per-minute`, "
            "`key-images-per-minute`), those of bulk requests (`bulk-images`, `bulk-bytes`), `wait` or `bulk-wait` (it "
            "would have waited too long), gRPC `calls`, in all or of one caller "
            "(`caller-calls`), `arriving` (gRPC messages that had not come whole), or `model-server` (its queue was "
            "full).",
            ["reason"],
        )
        for reason in (
            "images",
            "bytes",
            "key-images",
            "key-bytes",
            "bulk-images",
            "bulk-bytes",
            "wait",
            "bulk-wait",
            "calls",
            "caller-calls",
            "arriving",
            "model-server",
        ):
            self.overloads.labels(reason)  # shown as 0, so that rate() sees the first refusal
        self.key_requests = counter(
            "microtome_key_requests",
            "Requests by the name of their API key; names are those of the configuration.",
            ["key"],
        )
        self.uncounted = counter(
            "microtome_key_uncounted",
            "Requests of keys with a limit by the minute that were admitted uncounted, since Redis did not count them.",
        )
        self.cache_lookups = counter(
            "microtome_cache_lookups",
            "Vectors looked up, by tier (`memory`, `redis`) and result (`hit`, `miss`).",
            ["tier", "result"],
        )
        self.cache_writes_dropped = counter(
            "microtome_cache_writes_dropped",
            "Vectors that were not written to Redis since too many were waiting for it.",
        )
        self.cache_failures = counter(
            "microtome_cache_failures",
            "Calls of the Redis cache that failed or took longer than the time budget; each was a miss.",
        )
        self.cache_spoiled = counter(
            "microtome_cache_spoiled",
            "Values in Redis that were not what had been stored: truncated, foreign, forged, misplaced, or not finite; "
            "each was a miss.",
        )
        self.cache_breaker_open = gauge(
            "microtome_cache_breaker_open",
            "1 while Redis is left alone after a failure, 0 while it is used, by operation (`read`, `write`, `claim`; "
            "`rate`, where keys are limited by the minute).",
            ["operation"],
            multiprocess_mode="livemax",
        )
        for operation in ("read", "write", "claim"):
            self.cache_breaker_open.labels(operation).set(0)
        self.model_ready = gauge(
            "microtome_model_ready",
            "1 while the model answers and an inference has worked, not long ago.",
            ["model"],
            multiprocess_mode="livemin",
        )
        self.model_version = gauge(
            "microtome_model_version",
            "The version of the model that requests go to now.",
            ["model"],
            multiprocess_mode="livemax",
        )
        self.golden_refusals = Gauge(
            "microtome_golden_refusals",
            "Model servers that no request goes to for a version of the model, since its golden vectors deviate there.",
            ["model"],
            multiprocess_mode="livemax",
            registry=registry,
        )
        self.golden_deviation = Gauge(
            "microtome_golden_deviation",
            "Largest deviation from golden vectors in the last check of a model server, as a relative L2 difference.",
            ["model"],
            multiprocess_mode="livemax",
            registry=registry,
        )

        self.limit = gauge(
            "microtome_limit",
            "What the settings allow at most, of all workers together: `images_in_flight`, `body_bytes_in_flight`, "
            "`inference_slots` (of each model), `decode_threads`, `decode_bytes`, `cache_bytes` (of the memory cache).",
            ["limit"],
        )
        # labels() takes half the time of counting.
        self._stage = _Children(self.stage_seconds)
        self._requests = _Children(self.requests)
        self._request_seconds = _Children(self.request_seconds)
        self._batches = _Children(self.batch_images)
        self._queue = _Children(self.queue_seconds)
        self._vectors = _Children(self.vectors)
        self._keys = _Children(self.key_requests)
        self._lookups = _Children(self.cache_lookups)
        self._errors = _Children(self.errors)
        self._overloads = _Children(self.overloads)

    def stage(self, name: str, seconds: float) -> None:
        """Count a stage's duration, in seconds."""
        self._buffer.observe(self._stage[name,], seconds)

    def request_answered(self, route: str, status: int, seconds: float) -> None:
        """Count a request by its route's template, its status, and the seconds that it took."""
        self._requests[route, str(status)].inc()
        self._buffer.observe(self._request_seconds[route,], seconds)

    def level(self, gauge: Gauge) -> Callable[[float], object]:
        """Return a function that sets a gauge, for levels that change with every image."""
        return self._buffer.level(gauge)

    def predicting(
        self,
        model: str,
        images: int,
        callers: Sequence[Context],  # noqa: ARG002, for traces
    ) -> AbstractContextManager[None]:
        """Count a call of the model server by its images; the call is made while the block runs.

        Args:
            model: that is asked.
            images: in the call.
            callers: contexts of the requests whose images they are.
        """
        self._buffer.observe(self._batches[model,], images)
        return _NOTHING

    def left_queue(self, priority: str, seconds: float) -> None:
        """Count an image that has found a place in a batch, by how long it waited."""
        self._buffer.observe(self._queue[priority,], seconds)

    def answered_again(self, model: str, cache_seconds: float) -> None:
        """Count a response of the response cache: a hit of the memory tier, and one vector."""
        self.stage("cache", cache_seconds)
        self._lookups["memory", "hit"].inc()
        self._vectors[model, "hit"].inc()

    def failed(self, error: ServiceError) -> None:
        """Count a request that ended in an error, by the error's name, and by its limit if it was refused."""
        self._errors[slug(type(error)),].inc()
        if isinstance(error, Overloaded):
            self._overloads[error.reason,].inc()

    def key_used(self, name: str) -> None:
        """Count a request by the name of its key."""
        self._keys[name,].inc()

    def images_arrived(self, images: int, size: int) -> None:
        """Count complete images, and their bytes."""
        self._buffer.count(self.images, images)
        self._buffer.count(self.image_bytes, size)

    def vectors_answered(self, model: str, sources: Sequence[str]) -> None:
        """Count the vectors of one request by where they came from."""
        for source in set(sources):
            self._vectors[model, source].inc(sources.count(source))

    def model_dropped(self, model: str) -> None:
        """Forget a model that is served no more, as far as its state is concerned; what was counted stays."""
        for gauge in (self.model_ready, self.model_version, self.golden_refusals, self.golden_deviation):
            if _SHARED:
                # Files of several processes cannot lose a series. No alert compares with this.
                gauge.labels(model).set(float("nan"))
            else:
                gauge.remove(model)

    def exposition(self, encode: Encoder = generate_latest) -> bytes:
        """Return all metrics, those of all workers added up, in Prometheus' text format unless another is given."""
        if not _SHARED:
            return encode(self.registry)
        all_workers = CollectorRegistry()
        MultiProcessCollector(all_workers)  # type: ignore[no-untyped-call]
        return encode(all_workers)

    def described(self) -> Iterator[Described]:
        """Describe the metrics declared here, in the order of their declaration."""
        for metric in vars(self).values():
            if isinstance(metric, Counter | Gauge | Histogram):
                (family,) = metric.describe()
                name = f"{family.name}_total" if family.type == "counter" else family.name
                yield Described(name, family.type, metric._labelnames, family.documentation)  # noqa: SLF001
