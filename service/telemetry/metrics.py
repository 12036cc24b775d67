"""Every metric of the gateway, declared in one place and nowhere else.

Labels are bounded: a model's name becomes a label only when that model is served here, a route only when it exists.
docs/reference/metrics.md is generated from here.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.gc_collector import GCCollector
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from service.errors import Overloaded, ServiceError, slug

CONTENT_TYPE = CONTENT_TYPE_LATEST

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


_SHARED = "PROMETHEUS_MULTIPROC_DIR" in os.environ
"""True in a worker, whose metrics are files; the library has looked at the same variable when it was imported."""


_TOGETHER = 1 if _SHARED else 64
"""Observations told together. Workers tell each at once: whichever is asked reads the others' files."""


class Described(NamedTuple):
    """One metric, for documentation; a counter's name is the one on the wire, with `_total`."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str


_Metric = TypeVar("_Metric", Counter, Histogram)


class _Children(dict[tuple[str, ...], _Metric]):
    """A metric's children by the values of its labels, made when first asked for."""

    def __init__(self, parent: _Metric) -> None:
        self._parent: _Metric = parent

    def __missing__(self, values: tuple[str, ...]) -> _Metric:
        child: _Metric = self._parent.labels(*values)
        self[values] = child
        return child


class _Later(Collector):
    """What was observed lately, told to the library when it is asked, or many at a time.

    One by one, between other work, an observation costs several times as much as in a row, and a request makes a dozen.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        """Be asked before everything that is registered afterwards."""
        self._observed: list[tuple[Histogram, float]] = []
        self._levels: dict[Gauge, float] = {}
        self._counted: dict[Counter, int] = {}
        registry.register(self)

    def observe(self, histogram: Histogram, amount: float) -> None:
        """Note an amount."""
        self._observed.append((histogram, amount))
        if len(self._observed) >= _TOGETHER:
            self._tell()

    def count(self, counter: Counter, amount: int) -> None:
        """Note so many more."""
        if _SHARED:
            counter.inc(amount)
        else:
            self._counted[counter] = self._counted.get(counter, 0) + amount

    def level(self, gauge: Gauge) -> Callable[[float], object]:
        """Return what notes a gauge's level: the last one counts."""
        return gauge.set if _SHARED else partial(self._levels.__setitem__, gauge)

    def describe(self) -> Iterable[Metric]:
        """Nothing: these are other collectors' metrics."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Tell the others, who are asked next."""
        self._tell()
        return ()

    def _tell(self) -> None:
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
        # Twice the series for a time that nobody asks for.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        registry = self.registry = CollectorRegistry()
        self._later = _Later(registry)
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        self.requests = Counter(
            "microtome_requests",
            "Requests answered, by route and HTTP status. gRPC's routes are `grpc:METHOD`, counted by the status that "
            "their code stands for; each image of a stream is a request. `other` is all that reaches no route, since "
            "there is none or the key is missing.",
            ["route", "status"],
            registry=registry,
        )
        self.request_seconds = Histogram(
            "microtome_request_seconds",
            "Seconds from the request's first byte to the answer's last, by route.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.stage_seconds = Histogram(
            "microtome_stage_seconds",
            "Seconds spent in a stage of a request: read, hash, fetch, cache, elsewhere (another gateway "
            "computes it), decode, queue, infer, encode.",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.vectors = Counter(
            "microtome_vectors",
            "Vectors answered, by model and by where they came from: `hit`, `miss`, or `coalesced` with another.",
            ["model", "cache"],
            registry=registry,
        )
        self.images = Counter(
            "microtome_images",
            "Encoded images that came whole, however they were sent.",
            registry=registry,
        )
        self.image_bytes = Counter("microtome_image_bytes", "Bytes of these images.", registry=registry)
        self.images_in_flight = Gauge(
            "microtome_images_in_flight",
            "Images that are being worked on now.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.body_bytes_in_flight = Gauge(
            "microtome_body_bytes_in_flight",
            "Bytes of request bodies that are held now.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.queued_images = Gauge(
            "microtome_queued_images",
            "Decoded images that wait for a place in a batch.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.batch_images = Histogram(
            "microtome_batch_images",
            "Images in a call of the model server, by model.",
            ["model"],
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=registry,
        )
        self.errors = Counter(
            "microtome_errors", "Requests that ended in an error, by the error's name.", ["error"], registry=registry
        )
        self.overloads = Counter(
            "microtome_overloads",
            "Requests refused since there was too much work, by the limit that was reached: `images` or `bytes` in "
            "flight, those of an API key (`key-images`, `key-bytes`), `wait` (it would have waited too long), gRPC "
            "`calls`, or `model-server` (its queue was full).",
            ["reason"],
            registry=registry,
        )
        self.key_requests = Counter(
            "microtome_key_requests",
            "Requests by the name of their API key; names are those of the configuration.",
            ["key"],
            registry=registry,
        )
        self.cache_lookups = Counter(
            "microtome_cache_lookups",
            "Vectors looked up, by tier (`memory`, `redis`) and result (`hit`, `miss`).",
            ["tier", "result"],
            registry=registry,
        )
        self.cache_writes_dropped = Counter(
            "microtome_cache_writes_dropped",
            "Vectors that were not written to Redis since too many were waiting for it.",
            registry=registry,
        )
        self.cache_failures = Counter(
            "microtome_cache_failures",
            "Calls of the Redis cache that failed or took longer than the time budget; each was a miss.",
            registry=registry,
        )
        self.cache_spoiled = Counter(
            "microtome_cache_spoiled",
            "Values in Redis that were not what had been stored: truncated, foreign or misplaced; each was a miss.",
            registry=registry,
        )
        self.cache_breaker_open = Gauge(
            "microtome_cache_breaker_open",
            "1 while Redis is left alone after a failure, 0 while it is used, by operation (`read`, `write`).",
            ["operation"],
            multiprocess_mode="livemax",
            registry=registry,
        )
        for operation in ("read", "write"):
            self.cache_breaker_open.labels(operation).set(0)
        self.model_ready = Gauge(
            "microtome_model_ready",
            "1 while the model answers and an inference has worked, not long ago.",
            ["model"],
            multiprocess_mode="livemin",
            registry=registry,
        )
        self.model_version = Gauge(
            "microtome_model_version",
            "The version of the model that requests go to now.",
            ["model"],
            multiprocess_mode="livemax",
            registry=registry,
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

        self.limit = Gauge(
            "microtome_limit",
            "What the settings allow at most, of all workers together: `images_in_flight`, `body_bytes_in_flight`, "
            "`inference_slots` (of each model), `decode_threads`, `cache_bytes` (of the memory cache).",
            ["limit"],
            multiprocess_mode="livesum",
            registry=registry,
        )
        # labels() takes as long as everything else that counting does.
        self._stage = _Children(self.stage_seconds)
        self._requests = _Children(self.requests)
        self._request_seconds = _Children(self.request_seconds)
        self._batches = _Children(self.batch_images)
        self._vectors = _Children(self.vectors)
        self._keys = _Children(self.key_requests)
        self._lookups = _Children(self.cache_lookups)
        self._errors = _Children(self.errors)
        self._overloads = _Children(self.overloads)

    def stage(self, name: str, seconds: float) -> None:
        """Count a stage's duration, in seconds."""
        self._later.observe(self._stage[name,], seconds)

    def request_answered(self, route: str, status: int, seconds: float) -> None:
        """Count a request by its route's template, its status, and the seconds that it took."""
        self._requests[route, str(status)].inc()
        self._later.observe(self._request_seconds[route,], seconds)

    def level(self, gauge: Gauge) -> Callable[[float], object]:
        """Return what sets one of the gauges here, for levels that change with every image."""
        return self._later.level(gauge)

    def batch_sent(self, model: str, images: int) -> None:
        """Count a call of the model server by its images."""
        self._later.observe(self._batches[model,], images)

    def answered_again(self, model: str, cache_seconds: float) -> None:
        """Count an answer that was kept as it had been written: a hit of the memory tier, and one vector."""
        self.stage("cache", cache_seconds)
        self._lookups["memory", "hit"].inc()
        self._vectors[model, "hit"].inc()

    def failed(self, error: ServiceError) -> None:
        """Count a request that ended in an error, by the error's name, and by the limit that it met, if it did."""
        self._errors[slug(type(error)),].inc()
        if isinstance(error, Overloaded):
            self._overloads[error.reason,].inc()

    def key_used(self, name: str) -> None:
        """Count a request by the name of its key."""
        self._keys[name,].inc()

    def images_arrived(self, images: int, size: int) -> None:
        """Count images that came whole, and their bytes."""
        self._later.count(self.images, images)
        self._later.count(self.image_bytes, size)

    def vectors_answered(self, model: str, sources: Sequence[str]) -> None:
        """Count the vectors of one request by where they came from."""
        for source in set(sources):
            self._vectors[model, source].inc(sources.count(source))

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format, those of all workers added up."""
        if not _SHARED:
            return generate_latest(self.registry)
        everybody = CollectorRegistry()
        MultiProcessCollector(everybody)  # type: ignore[no-untyped-call]
        return generate_latest(everybody)

    def described(self) -> Iterator[Described]:
        """Describe the metrics declared here, in the order of their declaration."""
        for metric in vars(self).values():
            if isinstance(metric, Counter | Gauge | Histogram):
                (family,) = metric.describe()
                name = f"{family.name}_total" if family.type == "counter" else family.name
                yield Described(name, family.type, metric._labelnames, family.documentation)  # noqa: SLF001
