"""Fetch an image: every hop's host is allowed, every hop's address public, and the address checked the one asked."""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import urljoin

from service.errors import UrlNotAllowed, UrlNotFetched
from service.fetching.addresses import is_public
from service.fetching.exchange import Reply, connected, get
from service.fetching.targets import Target, target

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS = 3
_MAX_ADDRESSES = 4

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""From a host and port to the addresses that it stands for."""


async def by_system(host: str, port: int) -> Sequence[str]:
    """Resolve as the operating system does."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


class UrlFetcher:
    """Fetches from hosts that are allowed.

    Args:
        hosts: their names; `*.example.com` stands for all below it.
        seconds: for one image, redirects included.
        resolve: from names to addresses; for tests.
        admits: which addresses may be asked; for tests, which have no others than loopback.
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
        self._resolve = resolve
        self._admits = admits
        self._ports = ports
        self._tls = tls or ssl.create_default_context()

    async def fetch(self, address: str, *, max_bytes: int) -> bytes:
        """Return the bytes that lie at an address.

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
            where = target(url, self._hosts, self._ports)
            reply = await self._ask(where, max_bytes)
            if reply.status == 200:
                return reply.body
            if reply.status not in _REDIRECTS or "location" not in reply.headers:
                raise UrlNotFetched(f"Expected {where.host!r} to answer 200 with an image; received {reply.status}.")
            try:
                url = urljoin(url, reply.headers["location"])
            except ValueError:
                raise UrlNotFetched(f"{where.host!r} redirects to what is no address.") from None
            if where.scheme == "https" and not url.startswith("https:"):
                raise UrlNotAllowed(f"{where.host!r} redirects from https to something less.")
        raise UrlNotFetched(f"Expected at most {_MAX_REDIRECTS} redirects, received more.")

    async def _ask(self, where: Target, max_bytes: int) -> Reply:
        try:
            addresses = await self._resolve(where.host, where.port)
        except (OSError, UnicodeError):
            raise UrlNotFetched(f"The host {where.host!r} was not found.") from None
        # All of them have to be public: a name that also points inwards is not to be trusted with any.
        if not addresses or not all(self._admits(found) for found in addresses):
            raise UrlNotAllowed(f"The host {where.host!r} has an address that is not public.")
        return await self._first_answer(where, addresses[:_MAX_ADDRESSES], max_bytes)

    async def _first_answer(self, where: Target, addresses: Sequence[str], max_bytes: int) -> Reply:
        """Ask one address after the other, in the resolver's order (RFC 6724), until one takes the connection."""
        for address in addresses[:-1]:
            try:
                # What does not take the connection within its share leaves time for the others; see RFC 8305.
                connection = await connected(where, address, tls=self._tls, seconds=self._seconds / len(addresses))
            except UrlNotFetched:
                continue
            return await get(where, connection, max_bytes=max_bytes)
        last = await connected(where, addresses[-1], tls=self._tls, seconds=self._seconds)
        return await get(where, last, max_bytes=max_bytes)
