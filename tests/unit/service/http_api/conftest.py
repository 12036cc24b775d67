"""An HTTP application over the fake model server, called through its real ASGI interface."""

from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from service.auth import Keyring
from service.cache.memory import MemoryCache
from service.embedding.budget import Budget
from service.embedding.embedder import Embedder, Limits
from service.http_api.app import HttpOptions, http_app
from service.http_api.body import BodyLimits
from service.http_api.urls import Fetcher
from service.telemetry.metrics import Metrics
from tests.fakes.model_server import FakeModelServer, card


class KeptLog:
    """A log whose lines can be read afterwards."""

    def __init__(self) -> None:
        self.events: list[dict[str, object]] = []

    def info(self, event: str, /, **facts: object) -> None:
        """Keep it."""
        self.events.append({"event": event, **facts})

    warning = exception = info


LIMITS = BodyLimits(5_000, 9_000, 3)


@dataclass
class Gateway:
    """A client of the application, and the fake model server behind it."""

    client: httpx.AsyncClient
    server: FakeModelServer
    metrics: Metrics
    log: KeptLog
    app: FastAPI


@asynccontextmanager
async def _nothing(_: FastAPI) -> AsyncIterator[None]:
    yield


@pytest.fixture
def decoders() -> Iterator[ThreadPoolExecutor]:
    """Threads to decode in."""
    with ThreadPoolExecutor(2) as pool:
        yield pool


@asynccontextmanager
async def gateway_with(
    decoders: ThreadPoolExecutor,
    *,
    keyring: Keyring | None = None,
    fetcher: Fetcher | None = None,
    **options: Any,
) -> AsyncIterator[Gateway]:
    """The application with small limits: 3 images, 10,000 pixels, 5,000 bytes an image and 9,000 a request."""
    server, metrics, log = FakeModelServer(card()), Metrics(), KeptLog()
    embedder = Embedder(
        server,
        MemoryCache(1 << 20),
        limits=Limits(max_images=3, max_pixels=10_000),
        budget=Budget(4, "images", metrics.images_in_flight.set),
        decoders=decoders,
        observer=metrics,
    )
    app = http_app(
        embedder=embedder,
        models=server,
        bodies=Budget(40_000, "bytes", metrics.body_bytes_in_flight.set),
        options=HttpOptions(**{"default_model": "toy", "limits": LIMITS, "deadline": 5, "version": "0", **options}),
        metrics=metrics,
        log=log,
        lifespan=_nothing,
        keyring=keyring,
        fetcher=fetcher,
    )
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield Gateway(client, server, metrics, log, app)


@pytest.fixture
async def gateway(decoders: ThreadPoolExecutor) -> AsyncIterator[Gateway]:
    """The application that serves everybody."""
    async with gateway_with(decoders) as found:
        yield found
