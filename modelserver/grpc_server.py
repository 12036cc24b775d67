"""The gRPC server: services, health, reflection and addresses."""

import contextlib
import importlib
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

from modelserver.listening import CannotListen, check_addresses
from modelserver.options import Options
from modelserver.predict_request import Request, RequestReader
from modelserver.servicers import ModelServicer, PredictionServicer
from modelserver.tls import read_credentials

PACKAGE = "tensorflow.serving"
HEALTH_NAMES = ("", "ModelService", "PredictionService")
"""The real server's; what clients might expect, ``tensorflow.serving.PredictionService``, is not among them."""


async def build_server(options: Options, prediction: PredictionServicer, model: ModelServicer) -> "grpc.aio.Server":
    """Make a server that offers the services, on no address yet."""
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),  # or a second server on the same port would quietly take half of the calls
            *_channel_arguments(options.grpc_channel_arguments),
        ],
        maximum_concurrent_rpcs=options.grpc_max_threads or None,
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(prediction, server)
    # Goes before the one of the same name that was just added: bytes in, bytes out.
    predict: grpc.RpcMethodHandler[Request, bytes] = grpc.unary_unary_rpc_method_handler(
        prediction.Predict, request_deserializer=RequestReader().read
    )
    server.add_registered_method_handlers(f"{PACKAGE}.PredictionService", {"Predict": predict})
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(model, server)
    names = [*_served_names(), reflection.SERVICE_NAME]
    if options.enable_grpc_healthcheck_service:
        health_pb2_grpc.add_HealthServicer_to_server(await _health(), server)
        names.append(health_pb2.DESCRIPTOR.services_by_name["Health"].full_name)
    reflection.enable_server_reflection(names, server)
    return server


def bind(server: "grpc.aio.Server", options: Options) -> list[str]:
    """Open the port and the socket that the options name.

    Returns:
        The addresses, for people.

    Raises:
        CannotListen: One of them cannot be had.
        InvalidArgument: The file of the credentials is wrong.
    """
    check_addresses(options)  # again: loading took its time
    credentials = read_credentials(options.ssl_config_file)
    addresses = []
    if options.port:
        addresses.append(f"{options.host}:{options.port}")
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
    """Name our services, and make reflection know them.

    The modules with their descriptors come from a protoc so old that their last lines fail under today's protobuf
    (``DESCRIPTOR.has_options = True``); by then they have registered what reflection needs.
    """
    names = {"prediction_service": "PredictionService", "model_service": "ModelService"}
    for module in names:
        with contextlib.suppress(AttributeError):
            importlib.import_module(f"tensorflow_serving.apis.{module}_pb2")
    return [f"{PACKAGE}.{name}" for name in names.values()]


async def _health() -> health_pb2_grpc.HealthServicer:
    servicer = health_aio.HealthServicer()
    for name in HEALTH_NAMES:
        await servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
    return servicer


def _channel_arguments(text: str) -> list[tuple[str, int | str]]:
    pairs = (pair.split("=", 1) for pair in text.split(",") if pair)
    return [(key, int(value) if value.lstrip("-").isdigit() else value) for key, value in pairs]
