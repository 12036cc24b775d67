"""The composition root: the only module that imports every concrete class."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from microtome import __version__
from service.auth import Keyring
from service.cache.circuit_breaker import FailOpenCache, Guard
from service.cache.coalescing import CoalescingCache, WriteBehindCache
from service.cache.memory import Float16Cache, MemoryCache, NullCache, TieredCache, widened
from service.cache.metered import HitCounter
from service.core.admission import Budget
from service.core.decoding import DecodeMemory, Decoding
from service.core.embedder import Embedder, Limits
from service.core.intake import Intake
from service.core.ports import Leases, VectorCache
from service.core.remote_images import Fetcher, fetching
from service.core.single_flight import NoLeases
from service.http.app import HttpOptions, http_app
from service.http.bodies import BodyLimits
from service.http.compat import kserve, spoken
from service.http.connection_limits import limited_protocol
from service.http.health import Dependencies, operations_server
from service.model_server.acceptance import Acceptance
from service.model_server.batcher import Batcher
from service.model_server.client import untraced
from service.model_server.registry import ModelRegistry, is_pattern, models_config
from service.model_server.replicas import Replicas
from service.model_server.watcher import WatchTiming
from service.settings import Settings
from service.telemetry import traces_wanted
from service.telemetry.logs import Logger
from service.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from service.cache.redis.cache import SharedCounts
    from service.telemetry.tracing import Tracing

_RESPONSES_SHARE = 0.25
"""The part of `cache_bytes` for written responses; the rest is for vectors."""

_BODY_PAUSE = 10.0
"""Seconds between two pieces of a request's body, and for its head to arrive."""

_LONGEST_WAIT = 5.0
"""Seconds that an image may be expected to wait for others before it is refused."""

_URL_TIMEOUT = 5.0
"""Seconds to fetch one image, redirects included."""

_MAX_GRPC_CALLS = 1000
"""gRPC calls open at a time, streams included."""

_MAX_GRPC_CALLS_EACH = 256
"""Of these the calls of one caller, so that none takes all places: of a key's owner, or of an address without keys."""

_MAX_STREAM_IMAGES = 64
"""Images in flight in one EmbedStream; beyond it the stream is not read."""

_BREAKER_WINDOW = 1.0
"""Seconds without Redis after a failure, before one request tries it again."""

_UNWRITTEN_BYTES = 32 << 20
"""Bytes of vectors that may wait to be written to Redis."""


@dataclass(frozen=True, slots=True)
class Application:
    """The gateway, ready to be run.

    Attributes:
        asgi: serves HTTP.
        protocol: uvicorn's HTTP protocol with limits.
        stopping: set it when the server stops, so that HTTP and gRPC drain at the same time.
        lifespan: starts everything else, and stops it at the block's end. Raises OSError when a port cannot be listened
            at, or a file cannot be read.
    """

    asgi: ASGIApp
    protocol: type[HttpToolsProtocol]
    stopping: asyncio.Event
    lifespan: Callable[[], AbstractAsyncContextManager[None]]


def build(settings: Settings, log: Logger) -> Application:
    """Build the gateway. Connects nothing before the application starts. Needs a running event loop."""
    tracing = _open_tracing() if traces_wanted() else None
    metrics = tracing.metrics() if tracing else Metrics()
    _publish_limits(settings, metrics)
    acceptance = Acceptance(settings.accept_deviation, metrics, log)
    rpc = Replicas(settings.model_server, tracing.outgoing if tracing else untraced, admit=acceptance.admit)
    timing = WatchTiming(infer=settings.deadline, switch_after=settings.version_wait)
    catalogue = ModelRegistry(
        rpc,
        settings.models,
        listing=models_config(settings.models_config) if settings.models_config else None,
        label=settings.version_label,
        timing=timing,
        metrics=metrics,
        log=log,
    )
    cache, leases, redis, beginning = open_cache(settings, metrics, log)
    dependencies: Dependencies = {"model_server": rpc.trouble, **redis}
    decoders = ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="decode")
    decoding = Decoding(
        decoders,
        DecodeMemory(settings.decode_bytes, metrics.level(metrics.decode_bytes_in_flight)),
        at_a_time=settings.decode_threads,
        max_pixels=settings.max_image_pixels,
        formats=[name.upper() for name in settings.formats],
    )
    keyring, counts = _open_keyring(settings, metrics, log)
    stopping = asyncio.Event()

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        keeping = asyncio.create_task(catalogue.run(), name="catalogue")
        trying = asyncio.create_task(beginning(), name="redis at start")
        try:
            async with (
                _operations(settings, intake, metrics, dependencies),
                _grpc(settings, intake, metrics, log, keyring, stopping, tracing),
            ):
                yield
        finally:
            for task in (keeping, trying):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            await cache.close()
            if counts:
                await counts.close()
            await rpc.close()
            if tracing:
                await tracing.close()
            decoders.shutdown(wait=False, cancel_futures=True)
            decoding.close()

    images = Budget(settings.max_images_in_flight, "images", metrics.level(metrics.images_in_flight))
    bodies = Budget(settings.max_body_bytes_in_flight, "bytes", metrics.level(metrics.body_bytes_in_flight))
    intake = Intake(
        Embedder(
            Batcher(catalogue, slots=settings.inference_slots, servers=catalogue.concurrency, metrics=metrics),
            cache,
            limits=Limits(settings.max_images, _LONGEST_WAIT),
            budget=images,
            bulk=images.for_bulk(metrics.level(metrics.bulk_images_in_flight)),
            decoding=decoding,
            observer=metrics,
            leases=leases,
        ),
        catalogue,
        fetching(_open_fetcher(settings), max_bytes=settings.max_image_bytes, max_total=settings.max_body_bytes),
        bodies,
        settings.max_body_bytes,
        metrics,
        settings.default_model or next((name for name in settings.models if not is_pattern(name)), ""),
        settings.deadline,
        required=settings.required_models,
        cache_answers=lambda: bool(settings.cache_bytes) or ("redis" in redis and redis["redis"]() is None),
        bulk_bodies=bodies.for_bulk(),
    )
    limits = BodyLimits(settings.max_image_bytes, settings.max_body_bytes, settings.max_images, _BODY_PAUSE)
    app = http_app(
        intake=intake,
        options=HttpOptions(
            limits,
            version=__version__,
            log_access=settings.access_log,
            show_metrics=settings.operations_port is None,
            dialects=settings.dialects,
            response_cache_bytes=int(_RESPONSES_SHARE * settings.cache_bytes),
            path_prefix=settings.path_prefix,
            cors_origins=settings.cors_origins,
            page=settings.page,
        ),
        metrics=metrics,
        log=log,
        keyring=keyring,
        dependencies=dependencies,
        tracing=tracing,
    )
    protocol = limited_protocol(metrics, head_seconds=_BODY_PAUSE)
    return Application(app, protocol, stopping, lifespan)


def _publish_limits(settings: Settings, metrics: Metrics) -> None:
    for limit, amount in {
        "images_in_flight": settings.max_images_in_flight,
        "body_bytes_in_flight": settings.max_body_bytes_in_flight,
        "inference_slots": settings.inference_slots,
        "decode_threads": settings.decode_threads,
        "decode_bytes": settings.decode_bytes,
        "cache_bytes": settings.cache_bytes,
    }.items():
        metrics.limit.labels(limit).set(amount)


def _open_keyring(settings: Settings, metrics: Metrics, log: Logger) -> "tuple[Keyring | None, SharedCounts | None]":
    """Return the known keys, and the counts by the minute if any key needs them and gateways share a Redis."""
    keys = settings.key_records()
    if not keys:
        return None, None
    rated = any(key.limits.requests_per_minute or key.limits.images_per_minute for key in keys)
    if not rated or not settings.redis_url:
        return Keyring(keys), None
    # Imported here since it costs a gateway without Redis 10 MB and 50 ms.
    from service.cache.redis.cache import SharedCounts  # noqa: PLC0415
    from service.cache.redis.client import RedisServers  # noqa: PLC0415

    guard = Guard("rate", budget=settings.cache_budget, window=_BREAKER_WINDOW, metrics=metrics, log=log)
    counts = SharedCounts(RedisServers(settings.redis_url), guard)
    return Keyring(keys, counts, on_uncounted=metrics.uncounted.inc), counts


def _open_tracing() -> "Tracing":
    # Imported here since it needs an extra, and time and memory that gateways without traces need not spend.
    from service.telemetry.tracing import Tracing  # noqa: PLC0415

    return Tracing()


def _open_fetcher(settings: Settings) -> Fetcher | None:
    if not settings.url_hosts:
        return None
    # Imported here since reading the system's certificates costs a gateway that fetches nothing 20 ms.
    from service.fetching.fetcher import UrlFetcher  # noqa: PLC0415

    return UrlFetcher(settings.url_hosts, seconds=_URL_TIMEOUT)


def _operations(
    settings: Settings, intake: Intake, metrics: Metrics, dependencies: Dependencies
) -> AbstractAsyncContextManager[None]:
    if settings.operations_port is None:
        return nullcontext()
    return operations_server(
        intake, metrics, dependencies, host=settings.host, port=settings.operations_port, shared=settings.workers > 1
    )


def _grpc(  # noqa: PLR0913, PLR0917, collaborators
    settings: Settings,
    intake: Intake,
    metrics: Metrics,
    log: Logger,
    keyring: Keyring | None,
    stopping: asyncio.Event,
    tracing: "Tracing | None",
) -> AbstractAsyncContextManager[None]:
    if settings.grpc_port is None:
        return nullcontext()
    # Imported here since it costs a gateway without it 3 MB and 40 ms.
    from microtome.arriving import Arriving  # noqa: PLC0415
    from service.grpc.embed import CallLimits  # noqa: PLC0415
    from service.grpc.kserve import Inference  # noqa: PLC0415
    from service.grpc.middleware import Calls, untraced  # noqa: PLC0415
    from service.grpc.server import (  # noqa: PLC0415
        Encryption,
        Listening,
        Methods,
        grpc_server,
    )

    encryption = None
    if settings.grpc_certificate and settings.grpc_key:
        encryption = Encryption(settings.grpc_certificate, settings.grpc_key, settings.grpc_client_ca)
    limits = CallLimits(settings.max_image_bytes, settings.max_body_bytes, settings.max_images, _MAX_STREAM_IMAGES)
    calls = Calls(
        metrics,
        log,
        limit=_MAX_GRPC_CALLS,
        limit_each=_MAX_GRPC_CALLS_EACH,
        # What bodies leave; one message comes through however many bodies there are.
        arriving=Arriving(lambda: max(intake.bodies.left(), settings.max_body_bytes), settings.max_body_bytes),
        keyring=keyring,
        log_access=settings.access_log,
        spans=tracing.call if tracing else untraced,
    )
    shared = settings.workers > 1
    listening = Listening(settings.host, settings.grpc_port, shared, settings.drain, encryption)
    # One setting switches the protocol over REST and over gRPC.
    wanted = kserve.DIALECT in spoken(settings.dialects)
    also = (Inference(calls, intake, limits),) if wanted else ()
    return grpc_server(Methods(calls, intake, limits), listening, stopping, also)


def open_cache(
    settings: Settings, metrics: Metrics, log: Logger, *, unwritten_bytes: int = _UNWRITTEN_BYTES
) -> tuple[VectorCache, Leases, Dependencies, Callable[[], Coroutine[None, None, None]]]:
    """Build the cache tiers, the leases if gateways share their work, and the dependencies that these have.

    The last of these connects to Redis, so that the log tells at start when none answers.

    Args:
        settings: of the gateway.
        metrics: registry.
        log: logger.
        unwritten_bytes: vectors that may wait to be written to Redis; what goes beyond is dropped.
    """
    cache: VectorCache = NullCache()
    leases: Leases = NoLeases()
    dependencies: Dependencies = {}
    beginning = _nothing
    if settings.redis_url:
        cache, leases, dependencies, beginning = _open_redis(settings, metrics, log, unwritten_bytes)
    if settings.cache_bytes:
        near = MemoryCache(
            settings.cache_bytes - int(_RESPONSES_SHARE * settings.cache_bytes), HitCounter("memory", metrics)
        )
        cache = TieredCache(near, cache) if settings.redis_url else near
    if settings.cache_float16:
        cache = Float16Cache(cache, dropped=leases.release)
    return cache, leases, dependencies, beginning


async def _nothing() -> None:
    """Chosen without Redis."""


def _open_redis(
    settings: Settings, metrics: Metrics, log: Logger, unwritten_bytes: int
) -> tuple[VectorCache, Leases, Dependencies, Callable[[], Coroutine[None, None, None]]]:
    # Imported here since it costs a gateway without Redis 10 MB and 50 ms.
    from service.cache.redis.cache import HeldLeases, RedisCache, RedisLeases, Seal  # noqa: PLC0415
    from service.cache.redis.client import RedisServers  # noqa: PLC0415

    def notice(what: str, text: str) -> None:
        log.warning("redis_restricted", what=what, detail=text)

    servers = RedisServers(settings.redis_url or "", notice)
    held, seal = HeldLeases(settings.cache_lease), Seal(settings.hmac_key())
    redis = RedisCache(servers, ttl=settings.redis_ttl, metrics=metrics, held=held, seal=seal)
    guarded = FailOpenCache(
        redis,
        budget=settings.cache_budget,
        window=_BREAKER_WINDOW,
        metrics=metrics,
        log=log,
    )
    leases: Leases = NoLeases()
    if settings.cache_lease:
        restored = widened if settings.cache_float16 else bytes
        leases = RedisLeases(servers, held, guards=guarded, notice=notice, seal=seal, restored=restored)
    behind = WriteBehindCache(
        guarded,
        max_bytes=unwritten_bytes,
        # Draining may take no longer than that of requests.
        drain=min(5.0, settings.drain),
        metrics=metrics,
        # Other gateways must not wait for vectors that are never written.
        dropped=leases.release,
    )
    return CoalescingCache(behind), leases, {"redis": guarded.trouble}, guarded.until_found
