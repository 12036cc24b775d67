"""Addresses of `microtome up`: written for browsers, curl and gRPC; checked; and claimed from the system."""

import errno
import ipaddress
import os
import shlex
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from microtome.commands.up.errors import CannotStart

# A socket's path has at most 108 bytes on Linux and 104 on macOS, its name included.
LONGEST_DIRECTORY = 80
SOCKET_NAME = "models.sock"
LISTENING = "0A"


CONNECT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The host and port that the gateway listens on, and the port for gRPC if it has one."""

    host: str
    port: int
    grpc_port: int | None = None

    @property
    def local_host(self) -> str:
        """The host to connect to from this machine: the wildcard address is not one to connect to."""
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
    """Whether only this machine can connect to a host."""
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
    """Refuse anything but the address of a gRPC server.

    Raises:
        CannotStart: With the forms that are accepted.
    """
    host, _, port = address.rpartition(":")
    named = address.startswith(("unix:/", "dns:///"))
    if not named and not (host and port.isdecimal() and "/" not in host):
        raise CannotStart(f"--model-server expects host:port, dns:///name:port or unix:/path. Received: {address!r}")


def check_redis(url: str) -> None:
    """Refuse anything but the address of a Redis server.

    Raises:
        CannotStart: With what is expected; the address may hold a password, and is not repeated.
    """
    # Imported here since the command has options to check that need nothing of the gateway.
    from service.cache.redis.url import place  # noqa: PLC0415

    try:
        place(url)
    except ValueError as error:
        raise CannotStart(f"--redis: {error}") from None


def redis_trouble(url: str) -> str | None:
    """Return a sentence for people where Redis cannot be connected to; None where it, or one of its nodes, can."""
    from service.cache.redis.url import place  # noqa: PLC0415

    wanted = place(url)
    reasons = []
    for host, port in wanted.nodes:
        try:
            socket.create_connection((host, port), CONNECT_SECONDS).close()
        except OSError as error:
            reasons.append(f"{host}:{port} ({error.strerror or error})")
        else:
            return None
    if wanted.path:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(CONNECT_SECONDS)
            try:
                probe.connect(wanted.path)
            except OSError as error:
                reasons.append(f"{wanted.path} ({error.strerror or error})")
            else:
                return None
    return (
        f"Redis does not answer at {', '.join(reasons)}: until it does, vectors are kept in memory only, and are gone "
        "at the end. Start it, or leave --redis and MICROTOME_REDIS_URL away."
    )


def claim(host: str, port: int, option: str = "--port") -> int:
    """Check that a server can listen on `host:port` and return the port, a free one when `port` is 0.

    `option` is the option that chooses another port.

    Raises:
        CannotStart: It cannot; the message says why and what to do.
    """
    try:
        return _bind(host, port)
    except socket.gaierror as error:
        raise CannotStart(f"--host {host} is not an address of this machine: {error.strerror}.") from error
    except OSError as error:
        raise CannotStart(_explain(host, port, option, error)) from error


def _bind(host: str, port: int) -> int:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        # As the gateway does: a port in TIME_WAIT after a restart is free, a listening one is not.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
        probe.listen()
        return int(probe.getsockname()[1])


def _explain(host: str, port: int, option: str, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        who = holder(port)
        taken = f"Port {port} is taken{f' by {who}' if who else ''}."
        return f"{taken} Stop that, or choose another port: {_typed(option, next_free(host, port))}"
    if error.errno == errno.EACCES:
        return f"Port {port} is for the system's own services. Choose one from 1024 on: {_typed(option, 8000)}"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"--host {host} is not an address of this machine. Choose one that is, or 0.0.0.0 for all."
    return f"Cannot listen on {host} port {port}: {error.strerror}."


def _typed(option: str, port: int) -> str:
    """Return what people type to go on with another port and all else as it was: make has its own way."""
    words = sys.argv[2:] if sys.argv[1:2] == ["up"] else []
    kept = [
        word
        for before, word in zip(["", *words], words, strict=False)
        if option not in {before, word} and not word.startswith(f"{option}=")
    ]
    options = shlex.join([*kept, option, str(port)])
    if not os.environ.get("MAKELEVEL"):
        return f"microtome up {options}"
    return f"make run ARGS={shlex.quote(options)}" if set(options) & set('"$`\\') else f'make run ARGS="{options}"'


def next_free(host: str, port: int) -> int:
    """Return the first free port after `port`."""
    for candidate in range(port + 1, min(port + 100, 65536)):
        with suppress(OSError):
            return _bind(host, candidate)
    return _bind(host, 0)


def holder(port: int) -> str | None:
    """Name the process that listens on `port`, if this user may see it (Linux only)."""
    with suppress(OSError):
        sockets = _listening_inodes(port)
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal() and _holds(entry, sockets):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                return f"process {entry.name} ({command[:80]})"
    return None


def _listening_inodes(port: int) -> frozenset[str]:
    tables = (Path(f"/proc/net/{name}") for name in ("tcp", "tcp6"))
    rows = [line.split() for table in tables if table.exists() for line in table.read_text().splitlines()[1:]]
    return frozenset(row[9] for row in rows if row[3] == LISTENING and row[1].endswith(f":{port:04X}"))


def _holds(process: Path, inodes: frozenset[str]) -> bool:
    with suppress(OSError):
        return any(link.readlink().name[8:-1] in inodes for link in (process / "fd").iterdir())
    return False
