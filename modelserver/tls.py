"""Encryption of the gRPC port: TensorFlow Serving's ``SSLConfig``, PEM texts inline. REST stays plain, as there."""

from pathlib import Path

import grpc

from modelserver.errors import InvalidArgument
from modelserver.text_form import BadText, read

_TABLES = {
    "SSLConfig": (
        (1, "server_key", "string"),
        (2, "server_cert", "string"),
        (3, "custom_ca", "string"),
        (4, "client_verify", "bool"),
    )
}


def read_credentials(file: str) -> grpc.ServerCredentials | None:
    """Read the server's credentials; None without a file: then nothing is encrypted.

    Raises:
        InvalidArgument: The file is no ``SSLConfig``, or lacks what it takes.
    """
    if not file:
        return None
    try:
        config = read(Path(file).read_text(encoding="utf-8"), "SSLConfig", _TABLES)
    except (OSError, UnicodeDecodeError, BadText) as error:
        raise InvalidArgument(f"Invalid protobuf file: '{file}' ({error})") from error
    if not config.server_key or not config.server_cert:
        raise InvalidArgument(f"Expected server_key and server_cert in '{file}', as PEM text")
    if config.client_verify and not config.custom_ca:
        raise InvalidArgument(f"Expected custom_ca in '{file}': client_verify checks clients against it")
    return grpc.ssl_server_credentials(
        [(config.server_key.encode(), config.server_cert.encode())],
        root_certificates=config.custom_ca.encode() or None,
        require_client_auth=config.client_verify,
    )
