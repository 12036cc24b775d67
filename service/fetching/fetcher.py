"""Fetch an image: the host of each hop must be allowed, and each address that is connected to must be public.

HTTP is httpcore's. Its network backend here resolves a name, checks all its addresses and connects to one of them, so
that the address checked is the address connected to.
"""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from urllib.parse import urljoin, urlsplit

import httpcore

from microtome.errors import ImageTooLarge, UrlNotAllowed, UrlNotFetched

_NOT_PUBLIC_V4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",  # this network
            "10.0.0.0/8",  # private
            "100.64.0.0/10",  # shared address space of providers; Alibaba's metadata service is in it
            "127.0.0.0/8",  # loopback
            "168.63.129.16/32",  # Azure's platform services: a public address that means the host
            "169.254.0.0/16",  # link-local; metadata services are in it
            "172.16.0.0/12",  # private
            "192.0.0.0/24",  # protocol assignments: DS-Lite, NAT64 discovery, anycast for TURN and PCP, dummies
            "192.0.2.0/24",  # documentation
            "192.31.196.0/24",  # AS112
            "192.52.193.0/24",  # AMT relays
            "192.88.99.0/24",  # 6to4 relays
            "192.168.0.0/16",  # private
            "192.175.48.0/24",  # AS112
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/3",  # multicast, reserved, broadcast
        ),
    )
)

_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NOT_PUBLIC_V6 = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # protocol assignments: Teredo, benchmarks, ORCHID, AMT, anycast
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4, which stands for an IPv4 address
            "2620:4f:8000::/48",  # AS112
            "3ffe::/16",  # the 6bone, which was given back
            "3fff::/20",  # documentation
        ),
    )
)


def is_public(address: str) -> bool:
    """Whether an address, as the resolver writes it, belongs to a host on the public internet.

    Args:
        address: IPv4, also as the system writes it within IPv6 (`::ffff:8.8.8.8`), or IPv6. IPv6 addresses that
            translators map to IPv4 (NAT64, 6to4) and addresses with a zone are not public.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, IPv4Address):
        return not any(parsed in network for network in _NOT_PUBLIC_V4)
    if parsed.scope_id is not None:
        return False
    if parsed.ipv4_mapped is not None:
        return is_public(str(parsed.ipv4_mapped))
    return parsed in _GLOBAL_UNICAST and not any(parsed in network for network in _NOT_PUBLIC_V6)


_PORTS = {"http": 80, "https": 443}
_LONGEST = 2048
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS = 3
_MAX_ADDRESSES = 4
_HEADERS: dict[bytes | str, bytes | str] = {
    "Accept": "image/*",
    "Accept-Encoding": "identity",
    "User-Agent": "microtome",
    "Connection": "close",
}

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""From a host and port to its addresses."""


async def by_system(host: str, port: int) -> Sequence[str]:
    """Resolve as the operating system does."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


class UrlFetcher:
    """Fetches from hosts that are allowed.

    Args:
        hosts: their names; `*.example.com` stands for all names below it, not for itself.
        seconds: for one image, redirects included.
        resolve: from names to addresses; for tests.
        admits: which addresses may be connected to; for tests, which have only loopback.
        ports: that may be connected to; for tests.
        tls: how certificates are verified; for tests, which have their own authority.
    """

    def __init__(  # noqa: PLR0913, three of them for tests alone
        self,
        hosts: Sequence[str],
        *,
        seconds: float,
        resolve: Resolve = by_system,
        admits: Callable[[str], bool] = is_public,
        ports: frozenset[int] = frozenset({80, 443}),
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._hosts = hosts
        self._seconds = seconds
        self._ports = ports
        self._http = httpcore.AsyncConnectionPool(
            tls or ssl.create_default_context(),
            max_connections=None,
            max_keepalive_connections=0,
            network_backend=_CheckedNetwork(resolve, admits, seconds),
        )

    async def fetch(self, address: str, *, max_bytes: int) -> bytes:
        """Return the bytes at an address.

        Raises:
            UrlNotAllowed: the host, the port or the address behind it is not allowed, here or after a redirect.
            UrlNotFetched: no answer in time, or no image's bytes.
            ImageTooLarge: more than `max_bytes`.
        """
        try:
            async with asyncio.timeout(self._seconds):
                return await self._follow(address, max_bytes)
        except TimeoutError:
            raise UrlNotFetched(f"The image could not be fetched within {self._seconds:g} s.") from None

    async def _follow(self, url: str, max_bytes: int) -> bytes:
        for _ in range(_MAX_REDIRECTS + 1):
            target = read_target(url, self._hosts, self._ports)
            found = await self._get(target, max_bytes)
            if isinstance(found, bytes):
                return found
            try:
                url = urljoin(url, found)
            except ValueError:
                raise UrlNotFetched(f"{target.host!r} redirects to what is no address.") from None
            if target.scheme == "https" and not url.startswith("https:"):
                raise UrlNotAllowed(f"{target.host!r} redirects from https to something less.")
        raise UrlNotFetched(f"Expected at most {_MAX_REDIRECTS} redirects, received more.")

    async def _get(self, target: "Target", max_bytes: int) -> bytes | str:
        """Return the body, or the address of a redirect."""
        url = httpcore.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path)
        body = bytearray()
        try:
            async with self._http.stream("GET", url, headers={"Host": target.authority, **_HEADERS}) as response:
                headers = {name.lower().decode("latin-1"): value.decode("latin-1") for name, value in response.headers}
                if response.status in _REDIRECTS and "location" in headers:
                    return headers["location"]
                if response.status != 200:
                    raise UrlNotFetched(
                        f"Expected {target.host!r} to answer 200 with an image; received {response.status}."
                    )
                if headers.get("content-encoding", "identity") != "identity":
                    raise UrlNotFetched(f"{target.host!r} sent an encoded body, which was not asked for.")
                async for piece in response.aiter_stream():
                    body += piece
                    if len(body) > max_bytes:
                        raise ImageTooLarge(
                            f"Expected at most {max_bytes} bytes an image, received more from {target.host!r}."
                        )
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            # Without the error's own message, which would tell strangers what listens where.
            kind = "TLS" if isinstance(error.__context__, ssl.SSLError) else "the connection"
            raise UrlNotFetched(f"The image could not be fetched from {target.host!r}: {kind} failed.") from None
        return bytes(body)


class _CheckedNetwork(httpcore.AnyIOBackend):
    """Connects to hosts all of whose addresses are admitted, trying one address after the other (RFC 6724)."""

    def __init__(self, resolve: Resolve, admits: Callable[[str], bool], seconds: float) -> None:
        self._resolve = resolve
        self._admits = admits
        self._seconds = seconds

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109, httpcore's; the caller bounds the whole fetch
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to a host's first address that accepts."""
        try:
            addresses = await self._resolve(host, port)
        except (OSError, UnicodeError):
            raise UrlNotFetched(f"The host {host!r} was not found.") from None
        # All of them have to be public: a name that also points inwards is not to be trusted with any.
        if not addresses or not all(self._admits(address) for address in addresses):
            raise UrlNotAllowed(f"The host {host!r} has an address that is not public.")
        *others, last = addresses[:_MAX_ADDRESSES]
        share = self._seconds / (len(others) + 1)
        for address in others:
            # An address that does not accept within its share leaves time for the others; see RFC 8305.
            with suppress(httpcore.ConnectError, httpcore.ConnectTimeout):
                return await super().connect_tcp(address, port, share, local_address, socket_options)
        return await super().connect_tcp(last, port, timeout, local_address, socket_options)


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect, and what to request."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """The Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


def read_target(url: str, allowed: Sequence[str], ports: frozenset[int]) -> Target:
    """Parse an address and check it against the hosts that are allowed.

    Args:
        url: http or https, without user and password.
        allowed: names of hosts, see `UrlFetcher`.
        ports: that may be connected to.

    Raises:
        UrlNotAllowed: anything else, or a host or port that is not allowed.
    """
    # Control characters and spaces are where parsers disagree.
    if len(url) > _LONGEST or not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise UrlNotAllowed("Expected an http or https address of at most 2048 printable ASCII characters.")
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        raise UrlNotAllowed("Expected an http or https address; received one that cannot be taken apart.") from None
    if parts.scheme not in _PORTS or not host or parts.username is not None or parts.password is not None:
        raise UrlNotAllowed("Expected an http or https address with a host and without user and password.")
    port = _PORTS[parts.scheme] if port is None else port
    if not any(_matches(host, pattern.lower()) for pattern in allowed):
        raise UrlNotAllowed(f"Images are not fetched from {host[:80]!r}. Ask the operator, or send the image itself.")
    if port not in ports:
        raise UrlNotAllowed(f"Expected one of the ports {', '.join(map(str, sorted(ports)))}; received {port}.")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, host, port, path)


def _matches(host: str, pattern: str) -> bool:
    return host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern
