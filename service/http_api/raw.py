"""Answers whose headers are bytes already: the framework would encode a dozen strings for each, time and again."""

from collections.abc import Callable, Mapping

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.http_api.observation import observation

RawHeaders = list[tuple[bytes, bytes]]

WRITE = "microtome.write"
"""Where a scope has its connection's `Write`, if there is one, see `connection.py`."""

Write = Callable[[int, RawHeaders, bytes], bool]
"""Writes a whole answer at once, and returns whether it has; if not it has to be sent as ASGI says."""


class RawResponse(Response):
    """An answer as it goes out; the headers are complete, those of the body included."""

    def __init__(self, status: int, headers: RawHeaders, body: bytes) -> None:
        self.status_code = status
        self.raw_headers = headers
        self.body = body
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, in one piece where the connection takes it so."""
        write: Write | None = scope.get(WRITE)
        if write is not None:
            request = observation(scope)
            if write(self.status_code, [*self.raw_headers, request.id_header], bytes(self.body)):
                request.status = self.status_code
                return
        await super().__call__(scope, receive, send)


def raw(headers: Mapping[str, str]) -> RawHeaders:
    """Encode headers as they go over the wire, their names in small letters."""
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
