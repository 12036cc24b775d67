"""The gRPC server: the methods of the service, health, reflection, encryption, and draining.

Every method reads its messages as bytes and from a stream, also where there is exactly one; on the wire both are the
same. So a message is read after its call has been admitted, and its bytes are counted.
"""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import grpc
import grpc.aio
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthServicer, add_HealthServicer_to_server
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.reflection_pb2_grpc import add_ServerReflectionServicer_to_server

from microtome.errors import BadRequest, TemporarilyUnable
from microtome.manifest import ModelCard
from microtome.v1 import embedding_pb2 as pb
from service.auth import asked_by
from service.core.intake import Intake
from service.core.ports import Family, ModelServer, available_versions
from service.core.timeouts import within
from service.errors import of_model
from service.grpc.embed import CallLimits, check, embed, named, parsed
from service.grpc.encoding import read_options, version_of
from service.grpc.middleware import Call, Calls, host_of
from service.grpc.stream import Stream, StreamRequest

_POLL_SECONDS = 0.2
"""Seconds between two polls of the models for a watcher."""

SERVICE = pb.DESCRIPTOR.services_by_name["EmbeddingService"].full_name

_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

_FRAME = 1 << 16
"""Bytes of a message apart from its images."""

_KEEPING_ALIVE = (
    # A caller that vanished silently must not hold its stream's places for ever.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Callers may ping more often than gRPC's default of 5 minutes.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
)

_CLOSING = (
    # A connection that says nothing, or not enough of TLS and HTTP/2.
    ("grpc.server_handshake_timeout_ms", 10_000),
    # A connection without calls; its caller connects again as soon as it has one.
    ("grpc.max_connection_idle_ms", 300_000),
)

_HOLDING = (
    # Of a message that nothing reads yet, 64 kB; gRPC would measure the network and take more.
    ("grpc.http2.bdp_probe", 0),
    # A message of 60 kB would become one of 64 MB, of as many calls at a time as there are. Images are compact.
    ("grpc.compression_enabled_algorithms_bitset", 1),
    # Each takes 17 kB as soon as it is open.
    ("grpc.max_allowed_incoming_connections", 5000),
)

_MAX_SIDE_CALLS, _MAX_SIDE_CALLS_EACH = 200, 50
"""Calls of health and reflection that are open at a time: in all, and of one address. They need no key."""

_REFLECTION_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Methods:
    """The methods of the service."""

    calls: Calls
    intake: Intake
    limits: CallLimits
    _streams: set[Stream] = field(default_factory=set)

    def handlers(self) -> grpc.GenericRpcHandler:
        """Return the handlers of all methods, by their names in the contract."""
        handlers = self.calls.unary(
            {
                "Embed": partial(embed, self.intake, self.limits),
                "Classify": partial(embed, self.intake, self.limits, kind=pb.ClassifyRequest),
                "ListModels": self._list_models,
                "GetModel": self._get_model,
            }
        )
        streams = {"EmbedStream": pb.EmbedStreamRequest, "ClassifyStream": pb.ClassifyStreamRequest}
        for name, kind in streams.items():
            work = partial(self._stream, kind)
            handlers[name] = grpc.stream_stream_rpc_method_handler(self.calls.answering(name, work))
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    def described(self) -> FileDescriptorProto:
        """Return the file of the contract."""
        return _file(pb.DESCRIPTOR)

    def stop_streams(self) -> None:
        """Let every stream answer what it has read, and read no further."""
        for stream in self._streams:
            stream.stop()

    async def _list_models(self, _: Call) -> bytes:
        models = self.intake.models
        described = [_described(models, name, card) for name, card in models.cards().items()]
        described += [_family(name, family) for name, family in models.families().items()]
        return pb.ListModelsResponse(models=described).SerializeToString()

    async def _get_model(self, call: Call) -> bytes:
        request = await named(call, pb.GetModelRequest)
        models = self.intake.models
        if family := models.families().get(request.name):
            return pb.GetModelResponse(model=_family(request.name, family)).SerializeToString()
        card = of_model(request.name, models.cards())
        return pb.GetModelResponse(model=_described(models, request.name, card)).SerializeToString()

    async def _stream(self, kind: type[StreamRequest], call: Call) -> None:
        async with within(call.allowed(self.intake.deadline)):
            raw = await call.read()
        if raw is None:
            return
        first = parsed(kind, raw)
        if first.options.on_error == pb.ON_ERROR_FAIL:
            raise BadRequest("Expected no `on_error` in a stream, or ON_ERROR_SKIP: a bad image does not end it.")
        classes = first.classes if isinstance(first, pb.ClassifyStreamRequest) else None
        asked = read_options(first.options, self.intake.default_model, classes)
        with suppress(TemporarilyUnable):
            self.intake.models.towers(asked.request.model)
        check(self.intake, asked)
        asked = replace(asked, request=asked_by(call.caller, asked.request))
        asked.request.require_tenant()
        if call.caller and call.caller.rate:
            await call.caller.rate.take(images=self.intake.zero_shot.texts(asked.request))
        call.facts["model"] = asked.request.model[:80]
        call.streamed = 0
        stream = Stream(call, self.calls, self.intake, self.limits, asked, grouped=first.reads_more)
        self._streams.add(stream)
        try:
            await stream.run(first)
        finally:
            self._streams.discard(stream)


class _Places:
    """Bounds the calls of health and reflection that stay open."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()

    @contextmanager
    def taken(self, context: Any) -> Iterator[bool]:  # noqa: ANN401, its package ships no types
        """Take a place while the block runs; false if there is none."""
        host = host_of(context)
        free = self._open.total() < _MAX_SIDE_CALLS and self._open[host] < _MAX_SIDE_CALLS_EACH
        self._open[host] += free
        try:
            yield free
        finally:
            self._open[host] -= free
            if not self._open[host]:
                del self._open[host]


class _Reflection(reflection.aio.ReflectionServicer):  # type: ignore[misc]  # its package ships no types
    """Describes the services to callers that ask at once: no call stays open."""

    def __init__(self, names: Sequence[str], pool: DescriptorPool, places: _Places) -> None:
        super().__init__(names, pool=pool)
        self._places = places

    async def ServerReflectionInfo(self, requests: Any, context: Any) -> AsyncIterator[Any]:  # noqa: ANN401, N802
        """Answer each request."""
        with self._places.taken(context) as free:
            if not free:
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Too many calls of reflection are open.")
            try:
                async with asyncio.timeout(_REFLECTION_SECONDS):
                    async for answer in super().ServerReflectionInfo(requests, context):
                        yield answer
            except TimeoutError:
                await context.abort(
                    grpc.StatusCode.DEADLINE_EXCEEDED, f"Expected all requests within {_REFLECTION_SECONDS:g} s."
                )


class Health(HealthServicer):  # type: ignore[misc]  # its package ships no types
    """Answers from the models' readiness; while the gateway stops, nothing is ready."""

    def __init__(self, intake: Intake, services: Sequence[str], places: _Places) -> None:
        self._intake = intake
        self._models = intake.models
        self._whole = ("", *services)
        self._stopping = asyncio.Event()
        self._places = places

    def stop(self) -> None:
        """Report everything as not serving, and end the watches."""
        self._stopping.set()

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: ANN401, N802, as above
        """Return whether a name serves now."""
        status = self._status(request.service)
        if status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"Known: {', '.join(map(repr, self._names()))}.")
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: ANN401, N802
        """Return whether a name serves, now and at every change, until the gateway stops."""
        with self._places.taken(context) as free:
            if not free:
                # gRPC's clients take this for a server that cannot be watched, and call it without watching.
                await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Too many watchers. Ask with Check.")
            last = None
            while True:
                stopping = self._stopping.is_set()
                status = self._status(request.service)
                if status != last:
                    last = status
                    yield health_pb2.HealthCheckResponse(status=status)
                if stopping:
                    return
                with suppress(TimeoutError):
                    async with asyncio.timeout(_POLL_SECONDS):
                        await self._stopping.wait()

    async def List(self, _: Any, __: Any) -> Any:  # noqa: ANN401, N802
        """Return all statuses."""
        statuses = {name: health_pb2.HealthCheckResponse(status=self._status(name)) for name in self._names()}
        return health_pb2.HealthListResponse(statuses=statuses)

    def _names(self) -> list[str]:
        return [*self._whole, *self._models.readiness()]

    def _status(self, name: str) -> int:
        readiness = self._models.readiness()
        if name in self._whole:
            ready = self._intake.ready()
        elif name in readiness:
            ready = readiness[name] is None
        else:
            return int(health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
        serves = ready and not self._stopping.is_set()
        return int(health_pb2.HealthCheckResponse.SERVING if serves else health_pb2.HealthCheckResponse.NOT_SERVING)


@dataclass(frozen=True, slots=True)
class Encryption:
    """PEM files: the server's certificate and key, and the authority of its callers' certificates, if required."""

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
        shared: whether several workers listen there.
        drain: seconds that calls in flight have to finish.
    """

    host: str
    port: int
    shared: bool
    drain: float
    encryption: Encryption | None = None


class Contract(Protocol):
    """A service: the handlers of its methods, and the file that describes them."""

    def handlers(self) -> grpc.GenericRpcHandler:
        """Return the handlers of all methods."""
        ...

    def described(self) -> FileDescriptorProto:
        """Return the file, whose imports are known here."""
        ...


@asynccontextmanager
async def grpc_server(
    methods: Methods, listening: Listening, stopping: asyncio.Event, also: Sequence[Contract] = ()
) -> AsyncIterator[None]:
    """Serve while the block runs, and until `stopping` is set; then answer what is in flight.

    Args:
        methods: of our own service.
        listening: where.
        stopping: set to stop the server, and at the block's end.
        also: other systems' contracts.

    Raises:
        OSError: the port is taken, or a file of the encryption cannot be read.
    """
    server = grpc.aio.server(
        options=(
            # Otherwise another gateway on the same port would silently take half of the calls.
            ("grpc.so_reuseport", int(listening.shared)),
            ("grpc.max_receive_message_length", methods.limits.max_message_bytes + _FRAME),
            ("grpc.max_send_message_length", -1),
            *_KEEPING_ALIVE,
            *_CLOSING,
            *_HOLDING,
        ),
        # Beyond this a call is refused before anything of it is read.
        maximum_concurrent_rpcs=methods.calls.limit + 2 * _MAX_SIDE_CALLS,
    )
    contracts: tuple[Contract, ...] = (methods, *also)
    server.add_generic_rpc_handlers([contract.handlers() for contract in contracts])
    files = [contract.described() for contract in contracts]
    services = [f"{file.package}.{service.name}" for file in files for service in file.service]
    places = _Places()
    health = Health(methods.intake, services, places)
    add_HealthServicer_to_server(health, server)
    names = (*services, _HEALTH, reflection.SERVICE_NAME)
    add_ServerReflectionServicer_to_server(_Reflection(names, _pool(files), places), server)
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


def _pool(files: Sequence[FileDescriptorProto]) -> DescriptorPool:
    """Return what reflection describes: the contracts, and the two services of gRPC itself."""
    pool, default = DescriptorPool(), descriptor_pool.Default()
    own = [_file(default.FindFileContainingSymbol(name)) for name in (_HEALTH, reflection.SERVICE_NAME)]

    def add(file: FileDescriptorProto) -> None:
        for name in file.dependency:
            add(_file(default.FindFileByName(name)))
        pool.Add(file)

    for file in (*own, *files):
        add(file)
    return pool


def _file(descriptor: FileDescriptor) -> FileDescriptorProto:
    file = FileDescriptorProto()
    descriptor.CopyToProto(file)
    return file


def _bind(server: grpc.aio.Server, listening: Listening) -> None:
    host = f"[{listening.host}]" if ":" in listening.host else listening.host
    address = f"{host}:{listening.port}"
    try:
        if listening.encryption is None:
            server.add_insecure_port(address)
        else:
            server.add_secure_port(address, listening.encryption.credentials())
    except RuntimeError as error:
        # Without gRPC's advice to set a variable.
        raise OSError(f"Cannot listen on {address} for gRPC: {str(error).partition(';')[0]}") from None


def _family(name: str, family: Family) -> pb.Model:
    """Describe a family: a name that requests give for both of its towers."""
    cards = family.towers.cards if family.towers else []
    towers = [pb.ModelVersion.FromString(version_of(card)) for card in cards]
    space = cards[0].manifest.space or "" if cards else ""
    return pb.Model(name=name, ready=family.trouble is None, family=name, space=space, towers=towers)


def _described(models: ModelServer, name: str, card: ModelCard | None) -> pb.Model:
    ready = models.readiness()[name] is None
    if card is None:
        return pb.Model(name=name, ready=ready)
    manifest = card.manifest
    return pb.Model(
        name=name,
        ready=ready,
        version=card.version,
        fingerprint=manifest.fingerprint,
        outputs=[
            pb.Output(
                name=o.name,
                layer=o.layer,
                pooling=o.pooling,
                shape=o.shape,
                kind=o.kind or "",
                labels=len(o.classes),
            )
            for o in manifest.outputs
        ],
        default_output=manifest.default_output,
        max_batch_size=manifest.max_batch_size,
        manifest_json=json.dumps(asdict(manifest)),
        family=manifest.family or "",
        tower=manifest.tower if manifest.family else "",
        space=manifest.space or "",
        versions=available_versions(models, card),
    )
