"""Read TensorFlow Serving's configuration files, in protobuf's text format, whose messages no package on PyPI ships.

Tables list their few fields; the types are built at run time in a pool of their own, which does not collide with the
real ones. As in TensorFlow Serving, an unknown field or the wrong form of a known one is an error.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2

from modelserver.errors import InvalidArgument

METRICS_PATH = "/monitoring/prometheus/metrics"

_PACKAGE = "modelserver.config"
_proto = descriptor_pb2.FieldDescriptorProto
_SCALARS = {"int64": _proto.TYPE_INT64, "bool": _proto.TYPE_BOOL, "string": _proto.TYPE_STRING}

# Number, name and type of each field: a scalar, ``repeated int64``, a message of the table, or one of protobuf's
# wrappers, such as ``Int64Value``.
_MESSAGES: Mapping[str, Sequence[tuple[int, str, str]]] = {
    "BatchingParameters": (
        (1, "max_batch_size", "Int64Value"),
        (2, "batch_timeout_micros", "Int64Value"),
        (3, "max_enqueued_batches", "Int64Value"),
        (4, "num_batch_threads", "Int64Value"),
        (5, "thread_pool_name", "StringValue"),
        (6, "allowed_batch_sizes", "repeated int64"),
        (7, "pad_variable_length_inputs", "bool"),
        (8, "enable_large_batch_splitting", "BoolValue"),
        (9, "max_execution_batch_size", "Int64Value"),
    ),
    "MonitoringConfig": ((1, "prometheus_config", "PrometheusConfig"),),
    "PrometheusConfig": ((1, "enable", "bool"), (2, "path", "string")),
    "SSLConfig": (
        (1, "server_key", "string"),
        (2, "server_cert", "string"),
        (3, "custom_ca", "string"),
        (4, "client_verify", "bool"),
    ),
}


def read_file(path: str | Path, message: str) -> Any:  # noqa: ANN401 (a type made here has no name)
    """Read a file that holds one message.

    Args:
        path: The file.
        message: ``BatchingParameters``, ``MonitoringConfig`` or ``SSLConfig``.

    Raises:
        InvalidArgument: The file cannot be read, or is not of that form.
    """
    try:
        return parse_text(Path(path).read_text(encoding="utf-8"), message)
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise InvalidArgument(f"Invalid protobuf file: '{path}' ({error})") from error


def parse_text(text: str, message: str) -> Any:  # noqa: ANN401 (as above)
    """Read one message from its text form; raises ``text_format.ParseError``."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{_PACKAGE}.proto", package=_PACKAGE, syntax="proto3")
    file.dependency.append(wrappers_pb2.DESCRIPTOR.name)
    for name, fields in _MESSAGES.items():
        file.message_type.add(name=name, field=[_field(*field) for field in fields])
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    kind = message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{message}"))
    return text_format.Parse(text, kind())


def read_metrics_path(file: str) -> str | None:
    """Read the path of the metrics on the REST port from a ``MonitoringConfig``; None when they are not offered.

    Raises:
        InvalidArgument: The file is no ``MonitoringConfig``.
    """
    config = read_file(file, "MonitoringConfig").prometheus_config if file else None
    return (config.path or METRICS_PATH) if config and config.enable else None


def read_credentials(file: str) -> grpc.ServerCredentials | None:
    """Read the credentials of the gRPC port from an ``SSLConfig``, PEM texts inline; None without a file: no TLS.

    Raises:
        InvalidArgument: The file is no ``SSLConfig``, or lacks a required text.
    """
    if not file:
        return None
    config = read_file(file, "SSLConfig")
    if not config.server_key or not config.server_cert:
        raise InvalidArgument(f"Expected server_key and server_cert in '{file}', as PEM text")
    if config.client_verify and not config.custom_ca:
        raise InvalidArgument(f"Expected custom_ca in '{file}': client_verify checks clients against it")
    return grpc.ssl_server_credentials(
        [(config.server_key.encode(), config.server_cert.encode())],
        root_certificates=config.custom_ca.encode() or None,
        require_client_auth=config.client_verify,
    )


def _field(number: int, name: str, kind: str) -> descriptor_pb2.FieldDescriptorProto:
    repeated, _, kind = kind.rpartition(" ")
    proto = _proto(name=name, number=number, label=_proto.LABEL_REPEATED if repeated else _proto.LABEL_OPTIONAL)
    if kind in _SCALARS:
        proto.type = _SCALARS[kind]
    else:
        proto.type = _proto.TYPE_MESSAGE
        proto.type_name = f".{_PACKAGE}.{kind}" if kind in _MESSAGES else f".google.protobuf.{kind}"
    return proto
