"""The gRPC server: the service, health, reflection, encryption; and how it ends."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio
from grpc_health.v1.health_pb2 import DESCRIPTOR as HEALTH
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_reflection.v1alpha import reflection

from service.grpc.health import Health
from service.grpc.methods import SERVICE, Methods

_FRAME = 1 << 16
"""Bytes that a message may have beside those of its images."""

_KEEPING_ALIVE = (
    # A caller that vanished without a word must not hold its stream's places for ever.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # And callers may look whether we are there, more often than gRPC's 5 minutes allow.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
)


@dataclass(frozen=True, slots=True)
class Encryption:
    """Files in PEM: the server's certificate and key, and who signs its callers' certificates, if they need one."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def credentials(self) -> grpc.ServerCredentials:
        """Read the files.

        Raises:
            OSError: one of them cannot be read.
        """
        pair = (self.key.read_bytes(), self.certificate.read_bytes())
        authority = self.client_ca.read_bytes() if self.client_ca else None
        return grpc.ssl_server_credentials([pair], authority, require_client_auth=authority is not None)


@dataclass(frozen=True, slots=True)
class Listening:
    """Where to listen, and how.

    Attributes:
        shared: whether several workers listen there; each of them answers for all.
        drain: seconds that calls in flight have to finish.
    """

    host: str
    port: int
    shared: bool
    drain: float
    encryption: Encryption | None = None


@asynccontextmanager
async def grpc_server(
    methods: Methods, listening: Listening, stopping: asyncio.Event, also: Sequence[grpc.GenericRpcHandler] = ()
) -> AsyncIterator[None]:
    """Serve while the block runs, and until `stopping` is set; then answer what is in flight.

    Args:
        methods: of our own service.
        listening: where.
        stopping: set by who wants the server to stop, and at the block's end.
        also: contracts of others.

    Raises:
        OSError: somebody else listens there already, or a file of the encryption cannot be read.
    """
    server = grpc.aio.server(
        options=(
            # Or another gateway on the same port would quietly take half of the calls.
            ("grpc.so_reuseport", int(listening.shared)),
            ("grpc.max_receive_message_length", methods.limits.max_message_bytes + _FRAME),
            ("grpc.max_send_message_length", -1),
            *_KEEPING_ALIVE,
        )
    )
    health = Health(methods.intake.models, SERVICE)
    server.add_generic_rpc_handlers((methods.handlers(), *also))
    add_HealthServicer_to_server(health, server)
    names = (SERVICE, HEALTH.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
    _bind(server, listening)
    await server.start()

    async def end() -> None:
        await stopping.wait()
        health.stop()
        methods.stop_streams()
        await server.stop(listening.drain)

    ending = asyncio.create_task(end(), name="grpc")
    try:
        yield
    finally:
        stopping.set()
        await ending


def _bind(server: grpc.aio.Server, listening: Listening) -> None:
    host = f"[{listening.host}]" if ":" in listening.host else listening.host
    address = f"{host}:{listening.port}"
    try:
        if listening.encryption is None:
            server.add_insecure_port(address)
        else:
            server.add_secure_port(address, listening.encryption.credentials())
    except RuntimeError as error:
        raise OSError(f"Cannot listen on {address} for gRPC: {error}") from None
