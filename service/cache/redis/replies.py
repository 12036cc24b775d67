"""Read replies of Redis within bounds: of what a reply announces, and of what it has."""

from redis._parsers.socket import SERVER_CLOSED_CONNECTION_ERROR
from redis.asyncio.connection import AbstractConnection, DefaultParser
from redis.exceptions import ConnectionError, InvalidResponse, ResponseError  # noqa: A004, redis-py's own name

_LONGEST_LINE = 1 << 16
_MOST_ELEMENTS = 1 << 16
_MOST_VALUE_BYTES = 16 << 20
_MOST_REPLY_BYTES = 64 << 20
"""Of one reply; a vector of a million numbers has 4 MB."""

_BULK = ord("$")
_STRINGS = b"!="
_AGGREGATES = b"*%~>|"
"""RESP's marks of strings and of aggregates; all else has no more than its line."""


class Meter:
    """Follows replies by what they announce, and refuses those that go beyond the bounds.

    hiredis makes a list as long as it is announced, and waits for a string of any announced length.
    """

    def __init__(self) -> None:
        self._skip = self._bytes = self._elements = 0
        self._left = 1
        self._head = b""

    def take(self, data: bytes) -> None:
        """Take the next piece, before hiredis gets it: read the first line of each part, and skip strings.

        Raises:
            InvalidResponse: a reply announces more than it may have, or has it.
        """
        self._bytes += len(data)
        if self._head:
            data, self._head = self._head + data, b""
        at, size, left = self._skip, len(data), self._left
        while at < size:
            end = data.find(b"\r\n", at)
            if end < 0:
                self._head, at = data[at:], size
                break
            kind = data[at]
            if kind == _BULK or kind in _STRINGS:
                announced = _number(data[at + 1 : end], _MOST_VALUE_BYTES, "bytes")
                at = end + 2 if announced < 0 else end + 4 + announced
            else:
                if kind in _AGGREGATES:
                    announced = _number(data[at + 1 : end], _MOST_ELEMENTS - self._elements, "elements")
                    if announced > 0:
                        self._elements += announced
                        left += announced
                at = end + 2
            left -= 1
            if not left:
                self._elements, self._bytes, left = 0, size - at, 1
        self._skip, self._left = at - size, left
        if self._bytes > _MOST_REPLY_BYTES or len(self._head) > _LONGEST_LINE:
            raise InvalidResponse(f"Expected at most {_MOST_REPLY_BYTES} bytes in a reply, received more.")


def _number(digits: bytes, most: int, what: str) -> int:
    try:
        number = int(digits[:20])
    except ValueError:
        return -1  # hiredis says so
    if number > most:
        raise InvalidResponse(f"Expected at most {most} {what} more in a reply, received one that announces {number}.")
    return number


class BoundedParser(DefaultParser):  # type: ignore[misc, valid-type]  # a variable to mypy
    """redis-py's parser over hiredis, with limits. A key of another type than a string has no value."""

    def on_connect(self, connection: AbstractConnection) -> None:
        """Begin to read from a new connection."""
        super().on_connect(connection)
        self._meter = Meter()

    async def read_from_socket(self) -> bool:
        """Read the next piece.

        Raises:
            ConnectionError: the server closed the connection.
            InvalidResponse: a reply goes beyond the bounds.
        """
        data = await self._stream.read(self._read_size)
        if not data:
            raise ConnectionError(SERVER_CLOSED_CONNECTION_ERROR)
        self._meter.take(data)
        self._reader.feed(data)
        return True

    @classmethod
    def parse_error(cls, response: str) -> ResponseError | None:
        """Return the exception that an error is; None, as for an absent key, when its key has another type."""
        if response.startswith("WRONGTYPE"):
            return None
        error: ResponseError = super().parse_error(response)
        return error
