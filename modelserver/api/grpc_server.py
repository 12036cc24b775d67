"""The gRPC server: TensorFlow Serving's two services, health, reflection and addresses."""

import contextlib
import importlib
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeAlias

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from modelserver.api.handlers import Handlers
from modelserver.config.options import Options
from modelserver.config.text_protos import read_credentials
from modelserver.errors import CannotListen, Internal, ServingError, Unimplemented
from modelserver.models.catalogue import Catalogue
from modelserver.models.reload import Reloader

log = logging.getLogger(__name__)

PACKAGE = "tensorflow.serving"
HEALTH_NAMES = ("", "ModelService", "PredictionService")
"""The real server's; ``tensorflow.serving.PredictionService``, which clients might expect, is not among them."""

LONGEST_MESSAGE = 1024
ONLY_PREDICT = "Classify, Regress and MultiInference are not implemented; use Predict"

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


class Servicer:
    """``tensorflow.serving.PredictionService`` and ``ModelService``; methods have their names on the wire.

    The ``tf.Example`` methods are refused: images do not come as ``tf.Example``.
    """

    def __init__(self, handlers: Handlers, reloader: Reloader) -> None:
        self._handlers = handlers
        self._reloader = reloader

    async def Predict(  # noqa: N802
        self, request: predict_pb2.PredictRequest, context: Context
    ) -> predict_pb2.PredictResponse:
        """Compute outputs."""
        left = context.time_remaining()
        deadline = None if left is None else time.monotonic() + left
        async with _answering(context):
            with self._handlers.metrics.call(request.model_spec.name, "Predict"):
                return await self._handlers.predict(request, deadline)

    async def GetModelMetadata(  # noqa: N802
        self, request: get_model_metadata_pb2.GetModelMetadataRequest, context: Context
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """Return the signatures."""
        async with _answering(context):
            return self._handlers.metadata(request)

    async def GetModelStatus(  # noqa: N802
        self, request: get_model_status_pb2.GetModelStatusRequest, context: Context
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """Return the states of a model's versions."""
        async with _answering(context):
            return self._handlers.status(request)

    async def HandleReloadConfigRequest(  # noqa: N802
        self, request: model_management_pb2.ReloadConfigRequest, context: Context
    ) -> model_management_pb2.ReloadConfigResponse:
        """Replace the set of models."""
        async with _answering(context):
            return await self._reloader.reload(request)

    async def Classify(self, request: Any, context: Context) -> None:  # noqa: ANN401, N802
        """Refuse, as Regress does."""
        async with _answering(context):
            with self._handlers.metrics.call(request.model_spec.name, "Classify"):
                raise Unimplemented(ONLY_PREDICT)

    Regress = Classify

    async def MultiInference(self, _: object, context: Context) -> None:  # noqa: N802
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


async def create_grpc_server(options: Options, servicer: Servicer, catalogue: Catalogue) -> "grpc.aio.Server":
    """Create a server without an address."""
    pairs = (pair.split("=", 1) for pair in options.grpc_channel_arguments.split(",") if pair)
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),  # or a second server on the same port would take half of the calls
            *((key, int(value) if value.lstrip("-").isdigit() else value) for key, value in pairs),
        ],
        maximum_concurrent_rpcs=options.grpc_max_threads or None,
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(servicer, server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(servicer, server)
    names = [*_served_names(), reflection.SERVICE_NAME]
    if options.enable_grpc_healthcheck_service or options.models_dir:
        health = Health(catalogue)
        for name in HEALTH_NAMES:
            await health.set(name, health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
        names.append(health_pb2.DESCRIPTOR.services_by_name["Health"].full_name)
    reflection.enable_server_reflection(names, server)
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


def _served_names() -> list[str]:
    """Return the names of our services, and register their descriptors for reflection.

    An old protoc wrote the modules with their descriptors, and their last lines fail under today's protobuf
    (``DESCRIPTOR.has_options = True``); by then they have registered what reflection needs.
    """
    names = {"prediction_service": "PredictionService", "model_service": "ModelService"}
    for module in names:
        with contextlib.suppress(AttributeError):
            importlib.import_module(f"tensorflow_serving.apis.{module}_pb2")
    return [f"{PACKAGE}.{name}" for name in names.values()]
