"""Limits on connections that uvicorn lacks: endless heads, requests that never end, responses that are never read.

`bodies.py` limits the bytes of bodies. All other bytes of a connection are limited here, idle connections are closed,
and offers to upgrade are declined.
"""

import asyncio
from typing import TYPE_CHECKING

import httptools
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from service.errors import BadRequest, BodyTooSlow, ServiceError
from service.http.problems import problem_response
from service.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from uvicorn._types import HTTPScope

_LONGEST_HEAD = 1 << 16
"""Bytes that may come without a head or a piece of a body coming of them, beside the piece that is being read."""

_LINGERS = 30.0
"""Seconds that the rest of a body may take to come which has been answered, and any of an answer to be taken."""

_OFFERS = frozenset({b"upgrade", b"http2-settings"})


def limited_protocol(metrics: Metrics, *, head_seconds: float) -> type[HttpToolsProtocol]:
    """Return uvicorn's protocol with limits.

    Args:
        metrics: count what is refused.
        head_seconds: that a request's head may take to arrive, from its first byte.
    """
    return type("LimitedProtocol", (_LimitedProtocol,), {"metrics": metrics, "head_seconds": head_seconds})


class _LimitedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, pinned with uvicorn, whose overridden methods are not a public interface; tests check them.

    uvicorn has one scope for each message: the request's cycle has the same scope once its head is complete, and so
    has `whole` once its body is. So a request that comes in one piece costs little here.
    """

    metrics: Metrics
    head_seconds: float

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, object],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.parser = _Parser(self)
        self.whole: HTTPScope | None = None
        """The scope of the last message that came to its end."""
        self.came_of_it = False
        """Whether the present piece has some of a body."""
        self.watched = False
        """Whether a message has begun that has not come in one piece."""
        self._fruitless = 0
        self._late: asyncio.TimerHandle | None = None
        """Until when the head that is under way has to be complete."""
        self._rest: asyncio.TimerHandle | None = None
        """Until when the rest of a body that has been answered has to come."""
        self._untaken: asyncio.TimerHandle | None = None
        """Until when some of an answer has to be taken, while there is much of it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Close it, too, when nothing is ever asked."""
        super().connection_made(transport)
        self._wait_for_a_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of the timers."""
        super().connection_lost(exc)
        _stop(self._late, self._rest, self._untaken)

    def on_body(self, body: bytes) -> None:
        """Something has come."""
        self.came_of_it = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The whole request is here."""
        self.whole = self.scope
        super().on_message_complete()

    def is_whole(self) -> None:
        """Wait for the next request where none has come: uvicorn stops its timer for each piece of anything."""
        self.watched, self._fruitless = False, 0
        _stop(self._late, self._rest)
        self._late = self._rest = None
        if self.timeout_keep_alive_task is None and self._idle:
            self._wait_for_a_request()

    def goes_on(self, size: int, *, further: bool) -> None:
        """See after each piece whether a request still comes of what comes.

        Args:
            size: of the piece, in bytes.
            further: whether it has brought a head to its end, or some of a body.
        """
        if self.transport.is_closing():
            return
        self.watched = True
        self._fruitless = 0 if further else self._fruitless + size
        if self._fruitless > _LONGEST_HEAD:
            self._refuse(BadRequest(f"Expected a request's head of at most {_LONGEST_HEAD} bytes, received more."))
        elif self.cycle is None or self.cycle.scope is not self.scope:
            _stop(self._rest)
            self._rest = None
            if self._late is None:
                self._late = self.loop.call_later(self.head_seconds, self._head_is_late)
        else:
            _stop(self._late)
            self._late = None
            if self._rest is None and self.cycle.response_complete:
                # Callers send it before they read. Until the first of it comes uvicorn's own timer runs.
                self._rest = self.loop.call_later(_LINGERS, self.transport.close)

    def pause_writing(self) -> None:
        """Wait for whoever asked to take the answer, as long as any of it is taken."""
        super().pause_writing()
        self._untaken = self.loop.call_later(_LINGERS, self._look_what_is_taken, self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """Go on."""
        _stop(self._untaken)
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Close; what has not been taken by now is given up, since closing would wait for it."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        super().timeout_keep_alive_handler()

    def without_offer(self) -> bytes:
        """Return the head that has just been read, without the offer to upgrade, which RFC 9110 lets us ignore."""
        kept = [b"%b: %b\r\n" % header for header in self.headers if header[0] not in _OFFERS]
        line = b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        return b"".join([line, *kept, b"\r\n"])

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, in the words of all other refusals."""
        self._refuse(BadRequest(f"{msg} Expected HTTP/1.1."))

    def _should_upgrade(self) -> bool:
        """Have uvicorn pass over a head that offers to, since it is read once more; not so with CONNECT."""
        return self.parser.get_method() != b"CONNECT"

    @property
    def _idle(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return (cycle is None or cycle.response_complete) and not self.transport.is_closing()

    @property
    def _answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and cycle.response_started and not cycle.response_complete

    def _wait_for_a_request(self) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _head_is_late(self) -> None:
        self._late = None
        if self._idle:
            self._refuse(BodyTooSlow(f"Expected the request's head within {self.head_seconds:g} s."))
        elif not self.transport.is_closing():
            # While an answer is being made nothing is read that would not fit into memory.
            self._late = self.loop.call_later(self.head_seconds, self._head_is_late)

    def _look_what_is_taken(self, before: int) -> None:
        size = self.transport.get_write_buffer_size()
        if size < before:
            self._untaken = self.loop.call_later(_LINGERS, self._look_what_is_taken, size)
        else:
            self.transport.abort()

    def _refuse(self, error: ServiceError) -> None:
        """Answer outside of any request, unless an answer is under way, and close."""
        answer = problem_response(error, self.metrics, {})
        if not self._answering:
            headers = [*self.server_state.default_headers, *answer.raw_headers]
            lines = [b"%b: %b\r\n" % header for header in headers if header[0] != b"connection"]
            head = b"".join([STATUS_LINE[answer.status_code], *lines, b"connection: close\r\n\r\n"])
            self.transport.write(head + bytes(answer.body))
        self.transport.close()


class _Parser(httptools.HttpRequestParser):
    """Parses on behind an offer to upgrade; llhttp takes what follows for another protocol, a body included."""

    def __init__(self, protocol: _LimitedProtocol) -> None:
        super().__init__(protocol)
        self._protocol = protocol
        # As uvicorn does: what comes behind the last request of a connection is no error in that.
        self.set_dangerous_leniencies(lenient_data_after_close=True)

    def feed_data(self, data: bytes) -> None:  # type: ignore[override]  # what uvicorn feeds it
        """Parse a piece, and see what has come of it."""
        protocol = self._protocol
        cycle = protocol.cycle
        protocol.came_of_it = False
        try:
            super().feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            self._parse_on(memoryview(data), offer)
        if protocol.whole is not protocol.scope:
            protocol.goes_on(len(data), further=protocol.came_of_it or protocol.cycle is not cycle)
        elif protocol.watched or protocol.cycle is cycle:
            protocol.is_whole()

    def _parse_on(self, data: memoryview, offer: httptools.HttpParserUpgrade) -> None:
        if self.get_method() == b"CONNECT":
            # What follows is for whoever it was to be connected to, and no request to us.
            self._protocol.cycle.keep_alive = False
            return
        while True:
            super().feed_data(self._protocol.without_offer())
            data = data[offer.args[0] :]
            try:
                super().feed_data(data)
            except httptools.HttpParserUpgrade as another:
                offer = another
            else:
                return


def _stop(*timers: asyncio.TimerHandle | None) -> None:
    for timer in timers:
        if timer is not None:
            timer.cancel()
