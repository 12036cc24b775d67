"""Read TensorFlow Serving's configuration files, in protobuf's text format.

As in TensorFlow Serving, an unknown field or the wrong form of a known one is an error.
"""

from pathlib import Path
from typing import TypeVar

import grpc
from google.protobuf import text_format
from google.protobuf.message import Message

from microtome.tfserving.v1.server_files_pb2 import MonitoringConfig, SSLConfig
from modelserver.errors import InvalidArgument

METRICS_PATH = "/monitoring/prometheus/metrics"

Config = TypeVar("Config", bound=Message)


def read_file(path: str | Path, kind: type[Config]) -> Config:
    """Read a file that holds one message.

    Raises:
        InvalidArgument: The file cannot be read, or is not of that form.
    """
    try:
        return text_format.Parse(Path(path).read_text(encoding="utf-8"), kind())
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise InvalidArgument(f"Invalid protobuf file: '{path}' ({error})") from error


def read_metrics_path(file: str) -> str | None:
    """Read the path of the metrics on the REST port from a ``MonitoringConfig``; None when they are not offered.

    Raises:
        InvalidArgument: The file is no ``MonitoringConfig``.
    """
    config = read_file(file, MonitoringConfig).prometheus_config if file else None
    return (config.path or METRICS_PATH) if config and config.enable else None


def read_credentials(file: str) -> grpc.ServerCredentials | None:
    """Read the credentials of the gRPC port from an ``SSLConfig``, PEM texts inline; None without a file: no TLS.

    Raises:
        InvalidArgument: The file is no ``SSLConfig``, or lacks a required text.
    """
    if not file:
        return None
    config = read_file(file, SSLConfig)
    if not config.server_key or not config.server_cert:
        raise InvalidArgument(f"Expected server_key and server_cert in '{file}', as PEM text")
    if config.client_verify and not config.custom_ca:
        raise InvalidArgument(f"Expected custom_ca in '{file}': client_verify checks clients against it")
    return grpc.ssl_server_credentials(
        [(config.server_key.encode(), config.server_cert.encode())],
        root_certificates=config.custom_ca.encode() or None,
        require_client_auth=config.client_verify,
    )
