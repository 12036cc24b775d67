"""What uvicorn leaves open to strangers: heads without end, requests never whole, answers that nobody takes.

Bodies are the application's to bound, see `body.py`. All before, between and behind them passes here, in memory that
nobody counts, over connections that nobody would ever close. Offers to upgrade are declined here, too.
"""

import asyncio

import httptools
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from service.errors import BadRequest, BodyTooSlow, ServiceError
from service.http_api.problems import answer_to
from service.telemetry.metrics import Metrics

_LONGEST_HEAD = 1 << 16
"""Bytes that may come without a head or a piece of a body coming of them, beside the piece that is being read."""

_LINGERS = 30.0
"""Seconds that the rest of a body may take to come which has been answered, and any of an answer to be taken."""

_OFFERS = frozenset({b"upgrade", b"http2-settings"})


def bounded(protocol: type[HttpToolsProtocol], metrics: Metrics, *, head_seconds: float) -> type[HttpToolsProtocol]:
    """Return uvicorn's protocol, or one made from it, within bounds.

    Args:
        protocol: which.
        metrics: count what is refused.
        head_seconds: that a head may take to come, from its first byte.
    """
    members = {"metrics": metrics, "head_seconds": head_seconds}
    return type("Bounded", (_Bounded, protocol), members)


class _Bounded(HttpToolsProtocol):
    """uvicorn's protocol, pinned with uvicorn; what it overrides is not promised to stay, so tests hold it to that."""

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
        self._in_head = self._in_body = self._declined = False
        self._came_of_it = False
        self._fruitless = 0
        self._due: asyncio.TimerHandle | None = None
        """Until when what is under way has to be whole: a head, or the rest of a body that has been answered."""
        self._untaken: asyncio.TimerHandle | None = None
        """Until when some of an answer has to be taken, while there is much of it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Close it, too, when nothing is ever asked."""
        super().connection_made(transport)
        self._wait_for_a_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of the timers."""
        super().connection_lost(exc)
        self._settle()
        self._taken()

    def pause_writing(self) -> None:
        """Wait for whoever asked to take the answer, as long as any of it is taken."""
        super().pause_writing()
        self._untaken = self.loop.call_later(_LINGERS, self._look_what_is_taken, self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """Go on."""
        self._taken()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Close; what has not been taken by now is given up, since closing would wait for it."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        super().timeout_keep_alive_handler()

    def data_received(self, data: bytes) -> None:
        """Parse what has come, and see whether a request comes of it."""
        self._came_of_it = False
        super().data_received(data)
        if not self._in_head and not self._in_body:
            self._fruitless = 0
            if self._due is not None:
                self._settle()
            if self.timeout_keep_alive_task is None and self._idle:
                self._wait_for_a_request()
        elif not self.transport.is_closing():
            self._fruitless = 0 if self._came_of_it else self._fruitless + len(data)
            if self._fruitless > _LONGEST_HEAD:
                self._refuse(BadRequest(f"Expected a request's head of at most {_LONGEST_HEAD} bytes, received more."))
            elif self._in_head and self._due is None:
                self._due = self.loop.call_later(self.head_seconds, self._head_is_late)

    def on_message_begin(self) -> None:
        """Begin with a head."""
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Go on with a body; the head of a request that offers to upgrade is read once more, without the offer."""
        self._in_head, self._came_of_it = False, True
        upgrades = self.parser.should_upgrade()
        if upgrades and self.parser.get_method() != b"CONNECT":
            self._declined = True
            return
        self._in_body = True
        if self._due is not None:
            self._settle()
        super().on_headers_complete()
        if upgrades:
            # What follows is for whoever it was to be connected to, and no request to us.
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Something has come."""
        self._came_of_it = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The whole request is here."""
        self._in_body = False
        if not self._declined:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Give the rest of a body that has been answered a while to come, since callers send it before they read."""
        super().on_response_complete()
        if self._in_body and self.cycle.response_complete and not self.transport.is_closing():
            self._settle()
            self._due = self.loop.call_later(_LINGERS, self.transport.close)

    def without_offer(self) -> bytes:
        """Return the head that has just been read, without the offer to upgrade, which RFC 9110 lets us ignore."""
        self._declined = False
        kept = [b"%b: %b\r\n" % header for header in self.headers if header[0] not in _OFFERS]
        line = b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        return b"".join([line, *kept, b"\r\n"])

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, in the words of all other refusals."""
        self._refuse(BadRequest(f"{msg} Expected HTTP/1.1."))

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
        self._due = None
        if self._idle:
            self._refuse(BodyTooSlow(f"Expected the request's head within {self.head_seconds:g} s."))
        elif not self.transport.is_closing():
            # While an answer is being made nothing is read that would not fit into memory.
            self._due = self.loop.call_later(self.head_seconds, self._head_is_late)

    def _look_what_is_taken(self, before: int) -> None:
        size = self.transport.get_write_buffer_size()
        if size < before:
            self._untaken = self.loop.call_later(_LINGERS, self._look_what_is_taken, size)
        else:
            self.transport.abort()

    def _taken(self) -> None:
        if self._untaken is not None:
            self._untaken.cancel()
            self._untaken = None

    def _settle(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _refuse(self, error: ServiceError) -> None:
        """Answer outside of any request, unless an answer is under way, and close."""
        answer = answer_to(error, self.metrics, {})
        if not self._answering:
            headers = [*self.server_state.default_headers, *answer.raw_headers]
            lines = [b"%b: %b\r\n" % header for header in headers if header[0] != b"connection"]
            head = b"".join([STATUS_LINE[answer.status_code], *lines, b"connection: close\r\n\r\n"])
            self.transport.write(head + bytes(answer.body))
        self.transport.close()


class _Parser(httptools.HttpRequestParser):
    """Parses on behind an offer to upgrade; llhttp takes what follows for another protocol, a body included."""

    def __init__(self, protocol: _Bounded) -> None:
        super().__init__(protocol)
        self._protocol = protocol
        # As uvicorn does: what comes behind the last request of a connection is no error in that.
        self.set_dangerous_leniencies(lenient_data_after_close=True)

    def feed_data(self, data: bytes) -> None:  # type: ignore[override]  # what uvicorn feeds it
        """Parse a piece."""
        rest: memoryview = memoryview(data)
        while rest:
            try:
                super().feed_data(rest)
            except httptools.HttpParserUpgrade as offer:
                if self.get_method() == b"CONNECT":
                    return
                super().feed_data(self._protocol.without_offer())
                rest = rest[offer.args[0] :]
            else:
                return
