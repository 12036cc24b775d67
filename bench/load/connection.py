"""One keep-alive connection with at most one request in flight."""

import asyncio
from collections.abc import Callable
from typing import cast

import httptools

from bench.load.bodies import Pieces

Answered = Callable[["Connection", int, int], None]
"""Called with the connection, the status (0: the connection broke) and the body's bytes."""


class Connection(asyncio.Protocol):
    """An HTTP/1.1 client connection; calls `answered` when it is free again or has broken."""

    def __init__(self, answered: Answered) -> None:
        self._answered = answered
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._received = 0
        self._busy = False

    def send(self, request: Pieces) -> None:
        """Write one request."""
        self._busy = True
        self._received = 0
        self._parser = httptools.HttpResponseParser(self)
        if self._transport is None or self._transport.is_closing():
            self._end(0)
        else:
            self._transport.writelines(request)

    def close(self) -> None:
        """Close it."""
        self._busy = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asyncio's."""
        # A cast, since uvloop's transports are no subclasses.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Asyncio's."""
        self._parser.feed_data(data)

    def connection_lost(self, _: Exception | None) -> None:
        """Asyncio's: a request in flight is lost with it."""
        if self._busy:
            self._end(0)

    def on_body(self, body: bytes) -> None:
        """httptools': a piece of the answer."""
        self._received += len(body)

    def on_message_complete(self) -> None:
        """httptools': the answer is complete."""
        self._end(self._parser.get_status_code())

    @property
    def usable(self) -> bool:
        """Whether another request can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def _end(self, status: int) -> None:
        self._busy = False
        self._answered(self, status, self._received)
