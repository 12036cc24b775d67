"""The addresses that the server listens on: a TCP port, a Unix socket, or both."""

import errno
import socket
import stat
from pathlib import Path

from modelserver.config.options import Options
from modelserver.errors import CannotListen

LONGEST_SOCKET_PATH = 107
"""Bytes that fit in ``sockaddr_un``, less the final zero (104 less one on macOS)."""


def clear_stale_socket(path: Path) -> None:
    """Remove the socket file that a killed server left behind.

    Raises:
        CannotListen: Another kind of file exists there, a server answers on it, or the path is too long for a socket.
    """
    if len(bytes(path)) > LONGEST_SOCKET_PATH:
        raise CannotListen(f"{path} is longer than the {LONGEST_SOCKET_PATH} bytes that a Unix socket's path may have")
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise CannotListen(f"{path} is there already, and is no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        refused = probe.connect_ex(str(path))
    if refused != errno.ECONNREFUSED:
        raise CannotListen(f"Another server listens on {path}")
    path.unlink(missing_ok=True)


def check_addresses(options: Options) -> None:
    """Check that the addresses are available, and remove a stale socket file.

    Raises:
        CannotListen: One of them is not.
    """
    for port in filter(None, (options.port, options.rest_api_port)):
        _check_port(options.host, port)
    if options.grpc_socket_path:
        clear_stale_socket(Path(options.grpc_socket_path).absolute())


def remove_socket(options: Options) -> None:
    """Remove our own socket file, if gRPC has left it."""
    if options.grpc_socket_path:
        Path(options.grpc_socket_path).unlink(missing_ok=True)


def _check_port(host: str, port: int) -> None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise CannotListen(f"Cannot listen on {host}:{port}: {error.strerror}") from error
