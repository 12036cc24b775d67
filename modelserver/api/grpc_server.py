"""The gRPC server: TensorFlow Serving's two services, health, reflection and addresses."""

import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from operator import methodcaller
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import grpc
from google.protobuf import text_format
from google.protobuf.descriptor import FieldDescriptor, FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection, reflection_pb2

from microtome.arriving import Arriving, NotWhole
from microtome.protobuf import BYTES, fields
from microtome.tfserving.v1 import serving_pb2 as pb
from modelserver.api.handlers import Handlers
from modelserver.config.options import Options
from modelserver.config.text_protos import read_credentials
from modelserver.errors import CannotListen, Internal, InvalidArgument, ServingError, Unimplemented
from modelserver.models.catalogue import Catalogue
from modelserver.models.reload import Reloader

log = logging.getLogger(__name__)

PACKAGE = "tensorflow.serving"
HEALTH_NAMES = ("", "ModelService", "PredictionService")
"""The real server's; ``tensorflow.serving.PredictionService``, which clients might expect, is not among them."""

MOST_FIELDS = 10_000
"""Fields of one message, those of the messages within it included: protobuf makes an object of up to 100 bytes of a
field of two. An element of an unpacked list is a field; strings are never packed."""

DEEPEST = 20
"""Messages within messages; a request has five."""

MOST_NUMBERS = 32 << 20
"""Bytes of packed numbers, each of which becomes up to eight; pixels travel as ``tensor_content``, which has no such
bound."""

BULK = ("microtome-priority", "bulk")
"""Metadata of a call that lets others pass; the gateway sends it, and TensorFlow Serving knows no such thing."""

_FRAME = 1 << 16
"""Bytes of a message apart from its tensors."""

LONGEST_MESSAGE = 1024
ONLY_PREDICT = "Classify, Regress and MultiInference take tf.Example, which no image comes as; use Predict"

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


def cut(message: str) -> str:
    """Shorten a message to 1,024 bytes, and say so at its end, as TensorFlow Serving does."""
    data = message.encode()
    if len(data) <= LONGEST_MESSAGE:
        return message
    return data[:LONGEST_MESSAGE].decode(errors="ignore") + "...TRUNCATED"


@contextlib.asynccontextmanager
async def _answering(context: Context) -> AsyncIterator[None]:
    """Turn exceptions into the status of the call; unexpected ones are logged and their text is not sent."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, ServingError) or isinstance(error, Internal):
            log.exception("A request failed inside")
        if not isinstance(error, ServingError):
            error = Internal("Internal error; see the log of the model server")
        await context.abort(error.code, cut(error.message))


M = TypeVar("M", bound=Message)


def parse(kind: type[M], raw: bytes) -> M:
    """Read a request whose fields have been counted, so that its objects do not take many times its bytes.

    Raises:
        InvalidArgument: The bytes are no such message, or one with too many fields.
    """
    counts = _Counts()
    try:
        counts.add(kind.DESCRIPTOR, raw, 0, len(raw), DEEPEST)
        return kind.FromString(raw)
    except (DecodeError, ValueError, RecursionError):
        raise InvalidArgument(
            f"Expected a {kind.DESCRIPTOR.full_name}. Received {len(raw)} bytes that are none"
        ) from None


class _Counts:
    """Counts what a message holds by walking over its bytes; makes nothing of them."""

    def __init__(self) -> None:
        self.fields = 0
        self.numbers = 0

    def add(self, kind: Any, raw: bytes, at: int, end: int, deeper: int) -> None:  # noqa: ANN401, protobuf has two types
        """Count the fields of one message, ``raw`` from ``at`` to ``end``, and of those within it.

        Raises:
            InvalidArgument: There are too many.
            ValueError: The bytes are no message.
        """
        known = kind.fields_by_number
        for number, form, begin, finish in fields(raw, at, end):
            self.fields += 1
            if form in _GROUPS:
                raise ValueError("groups are not used")
            field = known.get(number)
            if form == BYTES and field is not None:
                if field.message_type is not None:
                    self._require(deeper=deeper)
                    self.add(field.message_type, raw, begin, finish, deeper - 1)
                elif field.is_repeated and field.cpp_type in _NUMBERS:
                    self.numbers += finish - begin
            self._require(deeper=deeper)

    def _require(self, *, deeper: int) -> None:
        if self.fields > MOST_FIELDS or self.numbers > MOST_NUMBERS or deeper < 1:
            raise InvalidArgument(
                f"Expected a request of at most {MOST_FIELDS} fields and {MOST_NUMBERS} bytes of packed numbers, "
                f"{DEEPEST} deep; numbers travel as tensor_content without such bounds"
            )


_GROUPS = {3, 4}
"""Wire types that mark a group's beginning and end."""

_NUMBERS = {
    FieldDescriptor.CPPTYPE_INT32,
    FieldDescriptor.CPPTYPE_INT64,
    FieldDescriptor.CPPTYPE_UINT32,
    FieldDescriptor.CPPTYPE_UINT64,
    FieldDescriptor.CPPTYPE_BOOL,
    FieldDescriptor.CPPTYPE_ENUM,
}
"""Types that a byte may hold, and that take up to eight in memory; of other numbers a message has all bytes."""


class Servicer:
    """``tensorflow.serving.PredictionService`` and ``ModelService``; methods have their names on the wire.

    Requests are the bytes that arrived. The ``tf.Example`` methods are refused: images do not come as ``tf.Example``.
    """

    def __init__(self, handlers: Handlers, reloader: Reloader) -> None:
        self._handlers = handlers
        self._reloader = reloader

    def methods(self) -> dict[str, dict[str, Any]]:
        """Return the methods of each service by name."""
        return {
            "PredictionService": {
                "Predict": self.Predict,
                "GetModelMetadata": self.GetModelMetadata,
                "Classify": self.Classify,
                "Regress": self.Regress,
                "MultiInference": self.MultiInference,
            },
            "ModelService": {
                "GetModelStatus": self.GetModelStatus,
                "HandleReloadConfigRequest": self.HandleReloadConfigRequest,
            },
        }

    async def Predict(self, raw: bytes, context: Context) -> pb.PredictResponse:  # noqa: N802
        """Compute outputs."""
        left = context.time_remaining()
        deadline = None if left is None else time.monotonic() + left
        async with _answering(context):
            request = parse(pb.PredictRequest, raw)
            with self._handlers.call(request.model_spec.name, "Predict"):
                bulk = BULK in (context.invocation_metadata() or ())
                return await self._handlers.predict(request, deadline, bulk=bulk)

    async def GetModelMetadata(  # noqa: N802
        self, raw: bytes, context: Context
    ) -> pb.GetModelMetadataResponse:
        """Return the signatures."""
        async with _answering(context):
            return self._handlers.metadata(parse(pb.GetModelMetadataRequest, raw))

    async def GetModelStatus(  # noqa: N802
        self, raw: bytes, context: Context
    ) -> pb.GetModelStatusResponse:
        """Return the states of a model's versions."""
        async with _answering(context):
            return self._handlers.status(parse(pb.GetModelStatusRequest, raw))

    async def HandleReloadConfigRequest(  # noqa: N802
        self, raw: bytes, context: Context
    ) -> pb.ReloadConfigResponse:
        """Replace the set of models."""
        async with _answering(context):
            return await self._reloader.reload(parse(pb.ReloadConfigRequest, raw))

    async def Classify(self, raw: bytes, context: Context) -> None:  # noqa: N802
        """Refuse, as Regress does."""
        async with _answering(context):
            # Both requests have the model in the same field.
            request = parse(pb.ClassificationRequest, raw)
            with self._handlers.call(request.model_spec.name, "Classify"):
                raise Unimplemented(ONLY_PREDICT)

    Regress = Classify

    async def MultiInference(self, _: bytes, context: Context) -> None:  # noqa: N802
        """Refuse."""
        async with _answering(context):
            raise Unimplemented(ONLY_PREDICT)


class Health(health_aio.HealthServicer):  # type: ignore[misc]  # its package ships no types
    """The real server's health service, which also lists the models, as that one cannot.

    Gateways with a pattern of models ask for the list. ``Check`` and ``Watch`` know the real server's names only.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        super().__init__()
        self._catalogue = catalogue

    async def List(self, _: object, __: Context) -> Any:  # noqa: ANN401, N802
        """List the services, and every model that is configured now."""
        status = health_pb2.HealthCheckResponse
        ready = dict.fromkeys(HEALTH_NAMES, True)
        ready |= {name: bool(m.available()) for name, m in self._catalogue.models.items() if not m.retired}
        found = {name: status(status=status.SERVING if up else status.NOT_SERVING) for name, up in ready.items()}
        return health_pb2.HealthListResponse(statuses=found)


_MESSAGES_ON_THEIR_WAY = 4
"""The largest messages that may be in memory before they have come whole; of smaller ones, as many more."""


def _reads(method: Callable[[bytes, Context], Awaitable[Any]], arriving: Arriving) -> Any:  # noqa: ANN401, gRPC's types know threaded servers
    """Return the handler of a method, which reads its message itself, so that slow ones can be ended."""

    async def answer(_: object, context: Context) -> Any:  # noqa: ANN401, as above
        peer = context.peer()
        try:
            with arriving.reading(peer, peer.rpartition(":")[0]):
                raw = await context.read()
        except NotWhole:
            await context.abort(StatusCode.RESOURCE_EXHAUSTED, "Too many large messages are on their way at a time")
        if not isinstance(raw, bytes):
            await context.abort(StatusCode.INVALID_ARGUMENT, "Expected a message. Received the call's end")
        arriving.handed(peer, len(raw))
        return await method(raw, context)

    return grpc.stream_unary_rpc_method_handler(answer, None, methodcaller("SerializeToString"))


async def create_grpc_server(options: Options, servicer: Servicer, catalogue: Catalogue) -> "grpc.aio.Server":
    """Create a server without an address."""
    pairs = (pair.split("=", 1) for pair in options.grpc_channel_arguments.split(",") if pair)
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", options.max_request_bytes + _FRAME),
            ("grpc.max_send_message_length", -1),
            # Of a message that nothing reads yet, 64 kB.
            ("grpc.http2.bdp_probe", 0),
            # Gateways send none that are compressed, and 100 kB could become the most that a message may have.
            ("grpc.compression_enabled_algorithms_bitset", 1),
            ("grpc.so_reuseport", 0),  # or a second server on the same port would take half of the calls
            *((key, int(value) if value.lstrip("-").isdigit() else value) for key, value in pairs),
        ],
        maximum_concurrent_rpcs=options.grpc_max_threads or None,
    )
    most = options.max_request_bytes
    arriving = Arriving(lambda: _MESSAGES_ON_THEIR_WAY * most, most)
    for service, methods in servicer.methods().items():
        handlers = {name: _reads(method, arriving) for name, method in methods.items()}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(f"{PACKAGE}.{service}", handlers),))
    names = [*(f"{PACKAGE}.{service}" for service in servicer.methods()), reflection.SERVICE_NAME]
    if options.enable_grpc_healthcheck_service or options.models_dir:
        health = Health(catalogue)
        for name in HEALTH_NAMES:
            await health.set(name, health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
        names.append(health_pb2.DESCRIPTOR.services_by_name["Health"].full_name)
    reflection.enable_server_reflection(names, server, _described())
    return server


def listen(server: "grpc.aio.Server", options: Options) -> list[str]:
    """Open the port and the socket that the options name.

    Returns:
        The addresses, for the log.

    Raises:
        CannotListen: An address is not available.
        InvalidArgument: The file of the credentials is wrong.
    """
    credentials = read_credentials(options.ssl_config_file)
    addresses = [f"{options.host}:{options.port}"] if options.port else []
    if options.grpc_socket_path:
        addresses.append(f"unix:{Path(options.grpc_socket_path).absolute()}")
    for address in addresses:
        try:
            bound = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
        except RuntimeError as error:
            raise CannotListen(f"Cannot listen on {address}: {error}") from error
        if not bound:
            raise CannotListen(f"Cannot listen on {address}")
    return addresses


def _described() -> DescriptorPool:
    """Return what reflection says: our messages under TensorFlow Serving's package, and the other services' own."""
    pool = DescriptorPool()
    for file in _with_dependencies(pb.DESCRIPTOR, health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
        described = FileDescriptorProto()
        file.CopyToProto(described)
        named = text_format.MessageToString(described).replace(pb.DESCRIPTOR.package, PACKAGE)
        pool.AddSerializedFile(text_format.Parse(named, FileDescriptorProto()).SerializeToString())
    return pool


def _with_dependencies(*files: FileDescriptor) -> list[FileDescriptor]:
    """List files, each after those that it imports."""
    found: dict[str, FileDescriptor] = {}
    for file in files:
        found |= {each.name: each for each in _with_dependencies(*file.dependencies)}
        found[file.name] = file
    return list(found.values())
