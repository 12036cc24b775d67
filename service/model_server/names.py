"""The model servers behind an address: a name is looked up every second, and each of its addresses is one server.

gRPC would look a name up at most every 30 s and keep one connection of unknown identity for all of them. IP addresses,
`unix:` and gRPC's other schemes stand for themselves. `dns://SERVER:PORT/name:port` asks that DNS server.
"""

import asyncio
import ipaddress
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from threading import Thread
from typing import NamedTuple

Lookup = Callable[[str, int, str | None], Awaitable[Sequence[str]]]
"""Returns the IP addresses of a name; is given the name, the port and the DNS server to ask, if a certain one.

Raises OSError when the name cannot be looked up.
"""


class Place(NamedTuple):
    """Where one model server listens.

    Attributes:
        target: for gRPC.
        authority: the name that calls carry, of several servers the same; None for gRPC's own choice.
    """

    target: str
    authority: str | None = None


class Name(NamedTuple):
    """A name to look up.

    Attributes:
        dns_server: `host:port` of the DNS server to ask; None for those of the system.
    """

    host: str
    port: int
    dns_server: str | None = None

    def places(self, found: Sequence[str]) -> tuple[list[Place], list[Place]]:
        """Return the places at IPv4 and at IPv6 addresses, without repetitions."""
        authority = f"{self.host}:{self.port}"
        four = [Place(f"ipv4:{ip}:{self.port}", authority) for ip in dict.fromkeys(found) if ":" not in ip]
        six = [Place(f"ipv6:[{ip}]:{self.port}", authority) for ip in dict.fromkeys(found) if ":" in ip]
        return four, six


def understood(address: str) -> Name | Place:
    """Return what an address stands for. What is no `host:port` in any form is left to gRPC."""
    dns_server = None
    rest = address
    if address.startswith("dns://"):
        dns_server, _, rest = address.removeprefix("dns://").partition("/")
    elif address.startswith("dns:"):
        rest = address.removeprefix("dns:")
    host, _, port = rest.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or "/" in host or _is_scheme(host):
        return Place(address)
    if _is_ip(host):
        return Place(rest)
    return Name(host, int(port), dns_server or None)


def _is_scheme(host: str) -> bool:
    return host.partition(":")[0] in {"unix", "unix-abstract", "ipv4", "ipv6", "vsock", "xds"} and ":" in host


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def looked_up(host: str, port: int, dns_server: str | None) -> Sequence[str]:
    """Look a name up without blocking the event loop.

    In a thread of its own, which ends with the process: a DNS server that is silent for a minute takes no thread of a
    pool, and does not delay the end.

    Raises:
        OSError: the name has no address, or no server answers.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Sequence[str]] = loop.create_future()

    def settle(found: Sequence[str] | OSError) -> None:
        if not done.done():
            done.set_exception(found) if isinstance(found, OSError) else done.set_result(found)

    def work() -> None:
        try:
            found: Sequence[str] | OSError = _asked(dns_server, host) if dns_server else _system(host, port)
        except OSError as error:
            found = error
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, found)

    Thread(target=work, daemon=True, name="lookup").start()
    return await done


def _system(host: str, port: int) -> list[str]:
    try:
        return [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except UnicodeError as error:
        raise OSError(f"{host!r} is no name: {error}") from error


_HEAD = struct.Struct(">HHHHHH")
_RECORD = struct.Struct(">HHIH")
_RECURSION_DESIRED = 0x0100
_KINDS = {1: socket.AF_INET, 28: socket.AF_INET6}
_DNS_SECONDS = 2.0
_LARGEST = 4096
"""Bytes of an answer, as the question allows: about 200 addresses."""


def _asked(dns_server: str, host: str) -> list[str]:
    """Ask one DNS server for a name's addresses of both families.

    Raises:
        OSError: it does not answer, or knows no address.
    """
    place, colon, port = dns_server.rpartition(":")
    where = (place.strip("[]"), int(port)) if colon and port.isdecimal() else (dns_server.strip("[]"), 53)
    family, *_, target = socket.getaddrinfo(*where, type=socket.SOCK_DGRAM)[0]
    found: list[str] = []
    for kind in _KINDS:
        with socket.socket(family, socket.SOCK_DGRAM) as asking:
            asking.settimeout(_DNS_SECONDS)
            asking.connect(target)
            number = os.urandom(2)
            name = b"".join(bytes((len(label),)) + label for label in host.encode("idna").strip(b".").split(b"."))
            head = number + _HEAD.pack(0, _RECURSION_DESIRED, 1, 0, 0, 1)[2:]
            # The last record says how large an answer may be.
            size = struct.pack(">BHHIH", 0, 41, _LARGEST, 0, 0)
            asking.send(head + name + struct.pack(">BHH", 0, kind, 1) + size)
            answer = asking.recv(_LARGEST)
        if answer[:2] == number:
            found += _addresses(answer, kind)
    if not found:
        raise OSError(f"{dns_server} knows no address of {host!r}")
    return found


def _addresses(answer: bytes, kind: int) -> list[str]:
    try:
        _, _, questions, records, *_ = _HEAD.unpack_from(answer)
        at, found = _HEAD.size, []
        for _ in range(questions):
            at = _after_name(answer, at) + 4
        for _ in range(records):
            at = _after_name(answer, at)
            own_kind, _, _, size = _RECORD.unpack_from(answer, at)
            at += _RECORD.size + size
            if own_kind == kind:
                found.append(socket.inet_ntop(_KINDS[kind], answer[at - size : at]))
    except (struct.error, IndexError, ValueError) as error:
        raise OSError(f"the DNS server's answer cannot be read: {error}") from error
    return found


def _after_name(answer: bytes, at: int) -> int:
    while size := answer[at]:
        if size >= 0xC0:
            return at + 2
        at += 1 + size
    return at + 1
