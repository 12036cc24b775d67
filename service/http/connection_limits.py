"""Limits on connections that uvicorn lacks: silent ones, endless heads and requests, responses that are never read.

`bodies.py` limits the bytes of bodies. All other bytes of a connection are limited here, idle connections are closed,
and offers to upgrade are declined.
"""

import asyncio
import re
import socket
from typing import TYPE_CHECKING

import httptools
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from microtome.errors import BadRequest, BodyTooSlow, ServiceError
from service.http.problems import problem_response
from service.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from uvicorn._types import HTTPScope

_BACKLOG = 2048
"""Connections that may wait to be accepted."""

_MAX_HEAD_BYTES = 1 << 15
"""Bytes that may arrive without completing a head or adding to a body, and the most that are parsed in one go."""

_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,12})[ \t]*\r\n", re.IGNORECASE)

_LINGER_SECONDS = 30.0
"""For the rest of a body that has been answered to arrive, and for the caller to read any of a response."""

_UPGRADE_HEADERS = frozenset({b"upgrade", b"http2-settings"})


def listener(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """Open a listening socket. At `::` it takes both families, where the system can.

    Args:
        host: an address, or a name, of which the first IPv4 address counts.
        port: to listen on.
        shared: whether other processes open it, too.

    Raises:
        OSError: the address is not of this machine, or the port is taken; the message names both.
    """
    try:
        found = sorted(address[0] for address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        both = host == "::" and socket.has_dualstack_ipv6()
        return socket.create_server(
            (host, port), family=found[0], backlog=_BACKLOG, reuse_port=shared, dualstack_ipv6=both
        )
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0]
        raise OSError(f"Cannot listen on {host} port {port}: {reason}") from None


def limited_protocol(metrics: Metrics, *, head_seconds: float) -> type[HttpToolsProtocol]:
    """Return uvicorn's protocol with limits.

    Args:
        metrics: count what is refused.
        head_seconds: that a request's head may take to arrive, from its first byte; and that a new connection may take
            to send that byte.
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
        """Scope of the last complete message."""
        self.got_body = False
        """Whether the current piece has some of a body."""
        self.watched = False
        """Whether a message has begun that does not come in one piece."""
        self._wasted = 0
        self._head_timer: asyncio.TimerHandle | None = None
        """Until the current head has to be complete."""
        self._rest_timer: asyncio.TimerHandle | None = None
        """Until the rest of a body that has been answered has to arrive."""
        self._unread_timer: asyncio.TimerHandle | None = None
        """Until the caller has to read some of a large response."""
        self._quiet_after: object = _Parser
        """The cycle after which the connection waits for a request."""
        self._quiet_until = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Wait for the first request: uvicorn waits only after a request."""
        super().connection_made(transport)
        self._wait_for_a_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timers."""
        super().connection_lost(exc)
        _stop(self._head_timer, self._rest_timer, self._unread_timer)

    def on_body(self, body: bytes) -> None:
        """Note that the piece has some of a body."""
        self.got_body = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the request is complete."""
        self.whole = self.scope
        super().on_message_complete()

    def message_ended(self) -> None:
        """End the timers of a complete request; restart the keep-alive timer, which uvicorn stops for any data."""
        self.watched, self._wasted = False, 0
        _stop(self._head_timer, self._rest_timer)
        self._head_timer = self._rest_timer = None
        if self.timeout_keep_alive_task is None and self._idle:
            self._wait_for_a_request()

    def message_continues(self, size: int, *, progress: bool) -> None:
        """Check after each piece of an incomplete message that it makes progress.

        Args:
            size: of the piece, in bytes.
            progress: whether it has completed a head, or has some of a body.
        """
        if self.transport.is_closing():
            return
        self.watched = True
        self._wasted = 0 if progress else self._wasted + size
        if self._wasted > _MAX_HEAD_BYTES:
            self._refuse(BadRequest(f"Expected a request's head of at most {_MAX_HEAD_BYTES} bytes, received more."))
        elif self.cycle is None or self.cycle.scope is not self.scope:
            _stop(self._rest_timer)
            self._rest_timer = None
            if self._head_timer is None:
                self._head_timer = self.loop.call_later(self.head_seconds, self._refuse_late_head)
        else:
            _stop(self._head_timer)
            self._head_timer = None
            if self._rest_timer is None and self.cycle.response_complete:
                # Callers send it before they read. Until its first piece uvicorn's keep-alive timer runs.
                self._rest_timer = self.loop.call_later(_LINGER_SECONDS, self.transport.close)

    def pause_writing(self) -> None:
        """Wait for the caller to read the response, as long as it reads any of it."""
        super().pause_writing()
        self._unread_timer = self.loop.call_later(
            _LINGER_SECONDS, self._check_unread, self.transport.get_write_buffer_size()
        )

    def resume_writing(self) -> None:
        """Stop waiting for the caller to read."""
        _stop(self._unread_timer)
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Close; discard what the caller has not read, since closing would wait for it."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        super().timeout_keep_alive_handler()

    def head_without_upgrade(self) -> bytes:
        """Return the current head without its offer to upgrade, which RFC 9110 allows us to ignore."""
        kept = [b"%b: %b\r\n" % header for header in self.headers if header[0] not in _UPGRADE_HEADERS]
        line = b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        return b"".join([line, *kept, b"\r\n"])

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP, with problem details."""
        self._refuse(BadRequest(f"{msg} Expected HTTP/1.1."))

    def _should_upgrade(self) -> bool:
        """Have uvicorn skip a head with an offer to upgrade, which is parsed again without it; but not CONNECT."""
        return self.parser.get_method() != b"CONNECT"

    @property
    def _idle(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return (cycle is None or cycle.response_complete) and not self.transport.is_closing()

    @property
    def _responding(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and cycle.response_started and not cycle.response_complete

    def _wait_for_a_request(self) -> None:
        now = self.loop.time()
        # Blank lines between requests give no more time.
        if self._quiet_after is not self.cycle:
            self._quiet_after = self.cycle
            self._quiet_until = now + (self.head_seconds if self.cycle is None else self.timeout_keep_alive)
        left = max(0.0, self._quiet_until - now)
        self.timeout_keep_alive_task = self.loop.call_later(left, self.timeout_keep_alive_handler)

    def _refuse_late_head(self) -> None:
        self._head_timer = None
        if self._idle:
            self._refuse(BodyTooSlow(f"Expected the request's head within {self.head_seconds:g} s."))
        elif not self.transport.is_closing():
            # Reading pauses while a response is computed, so little can arrive meanwhile.
            self._head_timer = self.loop.call_later(self.head_seconds, self._refuse_late_head)

    def _check_unread(self, before: int) -> None:
        size = self.transport.get_write_buffer_size()
        if size < before:
            self._unread_timer = self.loop.call_later(_LINGER_SECONDS, self._check_unread, size)
        else:
            self.transport.abort()

    def _refuse(self, error: ServiceError) -> None:
        """Send an error outside of any request, unless a response is being sent, and close."""
        answer = problem_response(error, self.metrics, {})
        if not self._responding:
            headers = [*self.server_state.default_headers, *answer.raw_headers]
            lines = [b"%b: %b\r\n" % header for header in headers if header[0] != b"connection"]
            head = b"".join([STATUS_LINE[answer.status_code], *lines, b"connection: close\r\n\r\n"])
            self.transport.write(head + bytes(answer.body))
        self.transport.close()


class _Parser(httptools.HttpRequestParser):
    """Continues after an offer to upgrade; llhttp takes what follows, a body included, for another protocol."""

    def __init__(self, protocol: _LimitedProtocol) -> None:
        super().__init__(protocol)
        self._protocol = protocol
        # As in uvicorn: data after the last request of a connection is not an error of that request.
        self.set_dangerous_leniencies(lenient_data_after_close=True)

    def feed_data(self, data: bytes) -> None:  # type: ignore[override]  # what uvicorn feeds it
        """Parse a piece, and check the progress of its message."""
        if len(data) > _MAX_HEAD_BYTES and not self._begins_one_request(data):
            for at in range(0, len(data), _MAX_HEAD_BYTES):
                if not self._protocol.transport.is_closing():
                    self._feed(data[at : at + _MAX_HEAD_BYTES])
        else:
            self._feed(data)

    def _begins_one_request(self, data: bytes) -> bool:
        """Whether a piece has a head of no more than is parsed in one go, and otherwise its body: most uploads do."""
        if self._protocol.whole is not self._protocol.scope:
            return False
        end = data.find(b"\r\n\r\n", 0, _MAX_HEAD_BYTES)
        length = _CONTENT_LENGTH.search(data, 0, end + 2) if end >= 0 else None
        return length is not None and end + 4 + int(length[1]) >= len(data)

    def _feed(self, data: bytes) -> None:
        protocol = self._protocol
        cycle = protocol.cycle
        protocol.got_body = False
        try:
            super().feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            self._parse_rest(memoryview(data), offer)
        if protocol.whole is not protocol.scope:
            protocol.message_continues(len(data), progress=protocol.got_body or protocol.cycle is not cycle)
        elif protocol.watched or protocol.cycle is cycle:
            protocol.message_ended()

    def _parse_rest(self, data: memoryview, offer: httptools.HttpParserUpgrade) -> None:
        if self.get_method() == b"CONNECT":
            # What follows is meant for the other end of the tunnel, and is not a request.
            self._protocol.cycle.keep_alive = False
            return
        while True:
            super().feed_data(self._protocol.head_without_upgrade())
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
