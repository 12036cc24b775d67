"""The HTTP server's connections: a request whose body comes with its head is answered where it is read, if it can be.

uvicorn makes a task of each request, copies its body twice, and takes its answer in two messages, of which it looks at
each header twice. Beside computing a vector that is nothing; of a hit in memory it is a fifth, and of one in Redis a
seventh. What is here asks `AtOnce` first, and hands all else on as uvicorn would have had it.
"""

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from starlette.types import Scope
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from service.http.at_once import AtOnce
from service.http.raw import WRITE, RawHeaders, Write

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application


_CLOSE = (b"connection", b"close")


def connection(at_once: AtOnce) -> type[HttpToolsProtocol]:
    """Return uvicorn's protocol, as `http=` takes it, which asks `at_once` first."""
    return type("Connection", (_Connection,), {"at_once": at_once})


class _Connection(HttpToolsProtocol):
    """uvicorn's protocol, pinned with uvicorn; what it overrides is not promised to stay, so tests hold it to that.

    A request is held back while the piece of data that has its head is parsed. Then its body has come or has not.
    """

    at_once: AtOnce

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, object],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._parsing = False
        self._held: RequestResponseCycle | None = None
        self._body = b""
        self._complete = False

    def data_received(self, data: bytes) -> None:
        """Parse what has come, and begin with the request that it has the head of."""
        self._parsing = True
        try:
            super().data_received(data)
        finally:
            self._parsing = False
            if self._held is not None:
                self._begin()

    def on_message_begin(self) -> None:
        """Hand a request on that another follows in the same piece: both keep their order so."""
        if self._held is not None:
            self._hand_on()
        super().on_message_begin()

    def on_body(self, body: bytes) -> None:
        """Keep a body that comes in one part as it is."""
        if self._held is None:
            super().on_body(body)
        elif self._body:
            self._hand_on()
            super().on_body(body)
        else:
            self._body = body

    def on_message_complete(self) -> None:
        """The whole request is here."""
        if self._held is None:
            super().on_message_complete()
        else:
            self._complete = True

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: "ASGI3Application") -> None:
        """Hold a request back whose head has been read just now."""
        if self._parsing and self._held is None and app is self.app and self.at_once.takes(_scope(cycle)):
            self._held, self._body, self._complete = cycle, b"", False
        else:
            super()._start_asgi_task(cycle, app)

    def _begin(self) -> None:
        """Answer at once or soon, or hand on."""
        assert self._held is not None  # noqa: S101, for mypy: who calls has looked
        cycle = self._held
        if self.transport.is_closing():
            # What came behind the head was no HTTP, and has been answered.
            self._held = None
            return
        write = partial(self._write, cycle)
        if self._complete and not self.flow.write_paused:
            # Not held any more: with its answer the connection turns to the next request.
            self._held = None
            if self.at_once(_scope(cycle), self._body, write, partial(self._go_on, cycle, write)):
                self._body = b""
                return
            self._held = cycle
        _scope(cycle)[WRITE] = write
        self._hand_on()

    def _hand_on(self) -> None:
        """Let the request go uvicorn's way, as if it had never been held back."""
        assert self._held is not None  # noqa: S101, for mypy: who calls has looked
        cycle, self._held = self._held, None
        super()._start_asgi_task(cycle, self.app)
        if self._body and not self.at_once.has_body_of(_scope(cycle)):
            super().on_body(self._body)
        # A connection that waits for its next request keeps nothing of the last.
        self._body = b""
        if self._complete:
            super().on_message_complete()

    def _go_on(self, cycle: RequestResponseCycle, write: Write) -> None:
        """Let a request go uvicorn's way whose body is in its scope, and behind which others may have come since."""
        _scope(cycle)[WRITE] = write
        cycle.more_body = False
        cycle.message_event.set()
        super()._start_asgi_task(cycle, self.app)

    def _write(self, cycle: RequestResponseCycle, status: int, headers: RawHeaders, body: bytes) -> bool:
        """Write a whole answer, and return whether it has been: not where its caller is slow or gone."""
        if cycle.response_started or cycle.disconnected or self.flow.write_paused:
            return False
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        said_close = _CLOSE in headers
        if said_close:
            cycle.keep_alive = False
        lines = [STATUS_LINE[status], *[b"%b: %b\r\n" % header for header in (*cycle.default_headers, *headers)]]
        if not cycle.keep_alive and not said_close:
            lines.append(b"%b: %b\r\n" % _CLOSE)
        self.transport.write(b"".join([*lines, b"\r\n", body]))
        cycle.message_event.set()
        if not cycle.keep_alive:
            self.transport.close()
        cycle.on_response()
        # As uvicorn does: no circle of connection and request is left for the collector.
        cycle.on_response = _nothing
        return True


def _nothing() -> None:
    pass


def _scope(cycle: RequestResponseCycle) -> Scope:
    return cycle.scope  # type: ignore[return-value]  # the same thing, typed by its fields
