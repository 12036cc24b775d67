"""The composition root: the only file that knows every concrete class."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress

from fastapi import FastAPI

from microtome import __version__
from service.auth import Keyring
from service.cache.counted import CountedCache
from service.cache.fail_open import FailOpenCache
from service.cache.gathered import GatheredCache
from service.cache.halved import HalvedCache
from service.cache.memory import MemoryCache
from service.cache.null import NullCache
from service.cache.tiered import TieredCache
from service.cache.write_behind import WriteBehindCache
from service.embedding.budget import Budget
from service.embedding.embedder import Embedder, Limits
from service.embedding.intake import Intake
from service.embedding.ports import ModelServer, VectorCache
from service.embedding.urls import Fetcher, fetching
from service.http_api.app import HttpOptions, http_app
from service.http_api.body import BodyLimits
from service.http_api.gateway import Gateway
from service.http_api.operations_server import operations_server
from service.model_server.batcher import Batcher
from service.model_server.catalogue import Catalogue, Timing
from service.model_server.replicas import Replicas
from service.settings import Settings
from service.telemetry.logs import Logger
from service.telemetry.metrics import Metrics

_ANSWERS = 0.25
"""The part of `cache_bytes` that answers kept as they were written may take; the rest is the vectors'."""


def build(settings: Settings, log: Logger) -> Gateway:
    """Build the gateway. Nothing is connected before the application starts. Needs a running event loop."""
    metrics = Metrics()
    rpc = Replicas(settings.model_server)
    catalogue = Catalogue(rpc, settings.models, timing=Timing(infer=settings.deadline), metrics=metrics, log=log)
    cache = open_cache(settings, metrics, log)
    decoders = ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="decode")

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        keeping = asyncio.create_task(catalogue.run(), name="catalogue")
        try:
            async with _operations(settings, catalogue, metrics):
                yield
        finally:
            keeping.cancel()
            with suppress(asyncio.CancelledError):
                await keeping
            await cache.close()
            await rpc.close()
            decoders.shutdown(wait=False, cancel_futures=True)

    intake = Intake(
        Embedder(
            Batcher(catalogue, slots=settings.inference_slots, metrics=metrics),
            cache,
            limits=Limits(settings.max_images, settings.max_image_pixels, settings.longest_wait),
            budget=Budget(settings.max_images_in_flight, "images", metrics.images_in_flight.set),
            decoders=decoders,
            observer=metrics,
        ),
        catalogue,
        fetching(_open_fetcher(settings), max_bytes=settings.max_image_bytes, max_total=settings.max_body_bytes),
        Budget(settings.max_body_bytes_in_flight, "bytes", metrics.body_bytes_in_flight.set),
        settings.max_body_bytes,
        metrics,
        settings.models[0],
        settings.deadline,
    )
    limits = BodyLimits(settings.max_image_bytes, settings.max_body_bytes, settings.max_images, settings.body_pause)
    return http_app(
        intake=intake,
        options=HttpOptions(
            limits,
            version=__version__,
            log_access=settings.access_log,
            show_metrics=settings.operations_port is None,
            answer_bytes=int(_ANSWERS * settings.cache_bytes),
        ),
        metrics=metrics,
        log=log,
        lifespan=lifespan,
        keyring=Keyring(keys) if (keys := settings.key_records()) else None,
    )


def _open_fetcher(settings: Settings) -> Fetcher | None:
    if not settings.url_hosts:
        return None
    # Imported here since reading the system's certificates costs a gateway that fetches nothing 20 ms.
    from service.fetching.fetcher import UrlFetcher  # noqa: PLC0415

    return UrlFetcher(settings.url_hosts, seconds=settings.url_timeout)


def _operations(settings: Settings, models: ModelServer, metrics: Metrics) -> AbstractAsyncContextManager[None]:
    if settings.operations_port is None:
        return nullcontext()
    return operations_server(
        models, metrics, host=settings.host, port=settings.operations_port, shared=settings.workers > 1
    )


def open_cache(settings: Settings, metrics: Metrics, log: Logger) -> VectorCache:
    """Choose the tiers that the settings ask for."""
    near: VectorCache = NullCache()
    if settings.cache_bytes:
        near = CountedCache(MemoryCache(settings.cache_bytes - int(_ANSWERS * settings.cache_bytes)), "memory", metrics)
    cache = TieredCache(near, _open_redis(settings, metrics, log)) if settings.redis_url else near
    return HalvedCache(cache) if settings.cache_float16 else cache


def _open_redis(settings: Settings, metrics: Metrics, log: Logger) -> VectorCache:
    # Imported here since it costs a gateway without Redis 10 MB and 50 ms.
    from service.cache.redis_store import RedisCache  # noqa: PLC0415

    redis = RedisCache(settings.redis_url or "", ttl=settings.redis_ttl, timeout=settings.cache_budget, metrics=metrics)
    guarded = FailOpenCache(
        CountedCache(redis, "redis", metrics),
        budget=settings.cache_budget,
        window=settings.cache_breaker_window,
        metrics=metrics,
        log=log,
    )
    # Draining may take as long as a request in flight, but no longer.
    behind = WriteBehindCache(
        guarded, max_bytes=settings.cache_unwritten_bytes, drain=min(5.0, settings.drain), metrics=metrics
    )
    return GatheredCache(behind)
