"""Is the port free, and if it is not, who has it?"""

import errno
import socket
from contextlib import suppress
from pathlib import Path

from microtome.up.errors import CannotStart

LISTENING = "0A"


def claim(host: str, port: int, option: str = "--port") -> int:
    """Make sure that `host:port` can be listened on and return the port, a free one when `port` is 0.

    `option` is what chooses another port.

    Raises:
        CannotStart: When it cannot, saying why and what to do.
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
        # As the gateway will: a port in TIME_WAIT after a restart is free, a listening one is not.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
        probe.listen()
        return int(probe.getsockname()[1])


def _explain(host: str, port: int, option: str, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        who = holder(port)
        taken = f"Port {port} is taken{f' by {who}' if who else ''}."
        return f"{taken} Stop that, or choose another port: {option} {next_free(host, port)}"
    if error.errno == errno.EACCES:
        return f"Port {port} is for the system's own services. Choose one from 1024 on: {option} 8000"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"--host {host} is not an address of this machine. Choose one that is, or 0.0.0.0 for all."
    return f"Cannot listen on {host} port {port}: {error.strerror}."


def next_free(host: str, port: int) -> int:
    """Return the first port after `port` that can be listened on."""
    for candidate in range(port + 1, min(port + 100, 65536)):
        with suppress(OSError):
            return _bind(host, candidate)
    return _bind(host, 0)


def holder(port: int) -> str | None:
    """Name the process that listens on `port`, as far as this user may see (Linux only)."""
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
