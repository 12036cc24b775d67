"""An HTTP application over the fake model server, called through its real ASGI interface."""

from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.types import ASGIApp

from service.auth import Keyring
from service.core.ports import VectorCache
from service.core.remote_images import Fetcher
from service.http.app import HttpOptions, http_app
from service.http.bodies import BodyLimits
from service.telemetry.metrics import Metrics
from tests.fakes.intake import intake_over
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
    app: ASGIApp


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
    cache: VectorCache | None = None,
    **options: Any,
) -> AsyncIterator[Gateway]:
    """The application with small limits: 3 images, 10,000 pixels, 5,000 bytes an image and 9,000 a request."""
    server, metrics, log = FakeModelServer(card()), Metrics(), KeptLog()
    limits: BodyLimits = options.pop("limits", LIMITS)
    deadline: float = options.pop("deadline", 5)
    intake = intake_over(
        server,
        decoders,
        metrics,
        bodies=limits,
        images_in_flight=4,
        body_bytes_in_flight=40_000,
        cache=cache,
        fetcher=fetcher,
        deadline=deadline,
    )
    app = http_app(
        intake=intake,
        options=HttpOptions(**{"limits": limits, "version": "0", "response_cache_bytes": 100_000, **options}),
        metrics=metrics,
        log=log,
        lifespan=_nothing,
        keyring=keyring,
    )
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield Gateway(client, server, metrics, log, app)


@pytest.fixture
async def gateway(decoders: ThreadPoolExecutor) -> AsyncIterator[Gateway]:
    """The application that serves all callers."""
    async with gateway_with(decoders) as found:
        yield found
