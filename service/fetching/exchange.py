"""One GET over one connection to one checked address; HTTP/1.1, no more of it than that takes.

Not a client library: they resolve names themselves, and the address that was checked has to be the one connected to.
"""

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass

import h11

from service.errors import ImageTooLarge, UrlNotFetched
from service.fetching.targets import Target

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]

_PIECE = 1 << 16
_MAX_HEAD = 1 << 15


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back; the body is empty unless the status is 200."""

    status: int
    headers: Mapping[str, str]
    body: bytes


async def connected(where: Target, address: str, *, tls: ssl.SSLContext, seconds: float) -> Connection:
    """Connect to one address.

    Args:
        where: what will be asked for.
        address: to connect to, already checked.
        tls: verifies the host's name, not the address.
        seconds: for connecting, TLS included.

    Raises:
        UrlNotFetched: nobody there takes the connection.
    """
    secured = where.scheme == "https"
    try:
        async with asyncio.timeout(seconds):
            return await asyncio.open_connection(
                address, where.port, ssl=tls if secured else None, server_hostname=where.host if secured else None
            )
    except OSError as error:
        raise _failed(where, error) from None


async def get(where: Target, connection: Connection, *, max_bytes: int) -> Reply:
    """Ask over a connection, and close it.

    Args:
        where: what to ask for.
        connection: to a checked address of it.
        max_bytes: of the body.

    Raises:
        UrlNotFetched: the exchange failed.
        ImageTooLarge: the body has more than `max_bytes`.
    """
    reader, writer = connection
    try:
        return await _exchange(reader, writer, where, max_bytes)
    except (OSError, h11.RemoteProtocolError) as error:
        raise _failed(where, error) from None
    finally:
        writer.transport.abort()


def _failed(where: Target, error: Exception) -> UrlNotFetched:
    # Not the error's own words: they tell strangers what listens where.
    kind = "TLS" if isinstance(error, ssl.SSLError) else "the connection"
    return UrlNotFetched(f"The image could not be fetched from {where.host!r}: {kind} failed.")


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, where: Target, max_bytes: int) -> Reply:
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD)
    headers = [
        ("Host", where.authority),
        ("Accept", "image/*"),
        ("Accept-Encoding", "identity"),
        ("User-Agent", "microtome"),
        ("Connection", "close"),
    ]
    for part in (h11.Request(method="GET", target=where.path, headers=headers), h11.EndOfMessage()):
        writer.write(connection.send(part) or b"")
    await writer.drain()
    status, size = 0, 0
    found: dict[str, str] = {}
    pieces: list[bytes] = []
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(_PIECE))
        elif isinstance(event, h11.Response):
            status = event.status_code
            found = {name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers}
            if status != 200:
                return Reply(status, found, b"")
            if found.get("content-encoding", "identity") != "identity":
                raise UrlNotFetched(f"{where.host!r} sent an encoded body, which was not asked for.")
        elif isinstance(event, h11.Data):
            size += len(event.data)
            if size > max_bytes:
                raise ImageTooLarge(f"Expected at most {max_bytes} bytes an image, received more from {where.host!r}.")
            pieces.append(bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            return Reply(status, found, b"".join(pieces))
        elif not isinstance(event, h11.InformationalResponse):
            raise UrlNotFetched(f"{where.host!r} closed the connection before its answer was whole.")
