"""Read replies of Redis within bounds: of what a reply announces, and of what it has."""

from typing import Any

import hiredis
from redis._parsers.hiredis import NOT_ENOUGH_DATA
from redis.asyncio.connection import AbstractConnection, DefaultParser
from redis.exceptions import InvalidResponse, ResponseError

_LONGEST_LINE = 1 << 16
_MOST_ELEMENTS = 1 << 16
_MOST_VALUE_BYTES = 16 << 20
_MOST_REPLY_BYTES = 64 << 20
"""Of one reply; a vector of a million numbers has 4 MB."""


class BoundedReader(hiredis.Reader):
    """hiredis with limits on what a reply announces, checked before hiredis makes room for it.

    hiredis makes a list as long as it is announced, and waits for a string of any announced length.
    """

    def __init__(self, **options: Any) -> None:  # noqa: ANN401, hiredis' own
        super().__init__(**options)
        self._nothing = options.get("notEnoughData", False)
        self._skip = self._elements = self._bytes = 0
        self._head = b""

    def feed(self, data: bytes, *place: int) -> None:  # type: ignore[override]  # what redis-py feeds it
        """Take a piece of a reply.

        Raises:
            InvalidResponse: it announces more than a reply may have, or has it.
        """
        self._bytes += len(data)
        if self._bytes > _MOST_REPLY_BYTES:
            raise InvalidResponse(f"Expected at most {_MOST_REPLY_BYTES} bytes in a reply, received more.")
        self._walk(data)
        super().feed(data, *place)

    def gets(self, *options: bool) -> object:
        """Return a reply, if there is a whole one."""
        reply = super().gets(*options)
        if reply is not self._nothing:
            self._bytes = self._elements = 0
        return reply

    def _walk(self, data: bytes) -> None:
        """Read the first line of each part of a reply, and skip strings."""
        if self._head:
            data, self._head = self._head + data, b""
        at, size = self._skip, len(data)
        while at < size:
            end = data.find(b"\r\n", at)
            if end < 0:
                self._head, at = data[at:], size
                if len(self._head) > _LONGEST_LINE:
                    raise InvalidResponse(f"Expected a line of at most {_LONGEST_LINE} bytes in a reply.")
                break
            # RESP's marks of strings and of aggregates; all else has no more than its line.
            if data[at] in b"$!=":
                announced = _number(data[at + 1 : end], _MOST_VALUE_BYTES, "bytes")
                at = end + 2 if announced < 0 else end + 4 + announced
                continue
            if data[at] in b"*%~>|":
                self._elements += max(0, _number(data[at + 1 : end], _MOST_ELEMENTS - self._elements, "elements"))
            at = end + 2
        self._skip = at - size


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
        self._reader = BoundedReader(
            protocolError=InvalidResponse, replyError=self.parse_error, notEnoughData=NOT_ENOUGH_DATA
        )

    @classmethod
    def parse_error(cls, response: str) -> ResponseError | None:
        """Return the exception that an error is; None, as for an absent key, when its key has another type."""
        if response.startswith("WRONGTYPE"):
            return None
        error: ResponseError = super().parse_error(response)
        return error
