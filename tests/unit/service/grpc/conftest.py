"""A gRPC server over the fake model server, and gRPC's own client of it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from microtome.arriving import Arriving
from microtome.v1.embedding_pb2_grpc import EmbeddingServiceStub
from service.auth import Keyring
from service.core.ports import VectorCache
from service.core.remote_images import Fetcher
from service.grpc.embed import CallLimits
from service.grpc.kserve import Inference
from service.grpc.middleware import Calls
from service.grpc.server import Encryption, Listening, Methods, grpc_server
from service.http.bodies import BodyLimits
from service.telemetry.metrics import Metrics
from tests.e2e.processes import free_port
from tests.fakes.intake import intake_over
from tests.fakes.model_server import FakeModelServer, card
from tests.unit.service.http.conftest import KeptLog

if TYPE_CHECKING:
    # Only the types have it.
    from microtome.v1.embedding_pb2_grpc import EmbeddingServiceAsyncStub

LIMITS = CallLimits(max_image_bytes=5_000, max_message_bytes=9_000, max_images=3, stream_images=4)


@dataclass
class Service:
    """A client of the server, and the fake model server behind it."""

    port: int
    channel: grpc.aio.Channel
    stub: "EmbeddingServiceAsyncStub"
    methods: Methods
    server: FakeModelServer
    metrics: Metrics
    log: KeptLog
    stopping: asyncio.Event

    def counted(self, metric: str, **labels: str) -> float:
        """Read a metric; 0 when it has never been counted."""
        return self.metrics.registry.get_sample_value(metric, labels) or 0.0

    async def until(self, condition: Callable[[], object]) -> None:
        """Let the server work until the condition holds."""
        while not condition():  # noqa: ASYNC110, polled like any other process
            await asyncio.sleep(0)


@asynccontextmanager
async def service_with(
    decoders: ThreadPoolExecutor,
    *,
    keyring: Keyring | None = None,
    encryption: Encryption | None = None,
    fetcher: Fetcher | None = None,
    cache: VectorCache | None = None,
    open_calls: int = 100,
    calls_each: int = 100,
    pause: float = 10,
    images_in_flight: int = 100,
    body_bytes_in_flight: int = 1 << 20,
    deadline: float = 10,
    log_access: bool = False,
    **limits: Any,
) -> AsyncIterator[Service]:
    """The server with small limits: 3 images, 10,000 pixels, 5,000 bytes an image, 4 images under way in a stream."""
    fake, metrics, log, own = FakeModelServer(card()), Metrics(), KeptLog(), replace(LIMITS, **limits)
    intake = intake_over(
        fake,
        decoders,
        metrics,
        bodies=BodyLimits(own.max_image_bytes, own.max_message_bytes, own.max_images),
        images_in_flight=images_in_flight,
        body_bytes_in_flight=body_bytes_in_flight,
        fetcher=fetcher,
        cache=cache,
        deadline=deadline,
    )
    calls = Calls(
        metrics,
        log,
        limit=open_calls,
        limit_each=calls_each,
        arriving=Arriving(lambda: max(intake.bodies.left(), own.max_message_bytes), own.max_message_bytes),
        keyring=keyring,
        log_access=log_access,
        pause=pause,
    )
    port, stopping = free_port(), asyncio.Event()
    listening = Listening("127.0.0.1", port, shared=False, drain=5, encryption=encryption)
    methods = Methods(calls, intake, own)
    async with (
        grpc_server(methods, listening, stopping, (Inference(calls, intake, own),)),
        grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel,
    ):
        yield Service(port, channel, EmbeddingServiceStub(channel), methods, fake, metrics, log, stopping)


@pytest.fixture
def decoders() -> Iterator[ThreadPoolExecutor]:
    """Threads to decode in."""
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture
async def service(decoders: ThreadPoolExecutor) -> AsyncIterator[Service]:
    """The server that serves all callers."""
    async with service_with(decoders) as found:
        yield found


def status_of(error: grpc.aio.AioRpcError) -> Status:
    """The details of a failed call."""
    (raw,) = [value for name, value in error.trailing_metadata() or () if name == "grpc-status-details-bin"]
    assert isinstance(raw, bytes)
    return Status.FromString(raw)


def reason_of(status: Status) -> str:
    """The reason that a status names."""
    return str(unpacked(status, ErrorInfo()).reason)


def unpacked(status: Status, into: Any) -> Any:
    """The detail of a kind that a status has exactly one of."""
    (detail,) = [detail for detail in status.details if detail.Is(into.DESCRIPTOR)]
    assert detail.Unpack(into)
    return into
