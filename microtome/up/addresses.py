"""Where things listen, as a browser, curl, the gateway and the operating system want it written."""

import ipaddress
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from microtome.up.errors import CannotStart

# The kernel takes 108 bytes on Linux and 104 on macOS; the file name below needs some of them.
LONGEST_DIRECTORY = 80
SOCKET_NAME = "models.sock"
REDIS_SCHEMES = (
    *("redis://", "rediss://", "unix://"),
    *("redis+sentinel://", "rediss+sentinel://", "redis+cluster://", "rediss+cluster://"),
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A host that the gateway listens on, its port, and the one for gRPC if it has one."""

    host: str
    port: int
    grpc_port: int | None = None

    @property
    def local_host(self) -> str:
        """The host to reach it by from this machine: "every address" is not an address to connect to."""
        try:
            address = ipaddress.ip_address(self.host)
        except ValueError:
            return self.host
        loopback = "127.0.0.1" if address.version == 4 else "::1"
        return loopback if address.is_unspecified else self.host

    @property
    def url(self) -> str:
        """The address for a browser on this machine."""
        return f"http://{self._bracketed}:{self.port}"

    @property
    def grpc_target(self) -> str | None:
        """The address for a gRPC client on this machine."""
        return f"{self._bracketed}:{self.grpc_port}" if self.grpc_port else None

    @property
    def _bracketed(self) -> str:
        return f"[{self.local_host}]" if ":" in self.local_host else self.local_host


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to what listens there."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextmanager
def private_socket() -> Iterator[Path]:
    """Yield a path for a Unix socket in a directory that only this user can enter, removed at the end."""
    place = tempfile.gettempdir()
    if len(os.fsencode(place)) > LONGEST_DIRECTORY:
        place = "/tmp"  # noqa: S108  (the directory made in it is new and private)
    with tempfile.TemporaryDirectory(prefix="microtome-", dir=place, ignore_cleanup_errors=True) as directory:
        yield Path(directory) / SOCKET_NAME


def check_model_server(address: str) -> None:
    """Refuse what is not the address of a gRPC server.

    Raises:
        CannotStart: With the forms that are accepted.
    """
    host, _, port = address.rpartition(":")
    named = address.startswith(("unix:/", "dns:///"))
    if not named and not (host and port.isdecimal() and "/" not in host):
        raise CannotStart(f"--model-server expects host:port, dns:///name:port or unix:/path. Received: {address!r}")


def check_redis(url: str) -> None:
    """Refuse what is not the address of a Redis.

    Raises:
        CannotStart: With the forms that are accepted.
    """
    if not url.startswith(REDIS_SCHEMES):
        accepted = "redis://host:port/0, rediss://, unix://, or one with +sentinel or +cluster"
        raise CannotStart(f"--redis expects {accepted}. Received: {url!r}")
