"""Answers whose headers are bytes already: the framework would encode a dozen strings for each, time and again."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from starlette.responses import Response

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


class Whole(NamedTuple):
    """An answer as a connection writes it at once; the headers are complete, those of the body included."""

    status: int
    headers: RawHeaders
    body: bytes


def whole(response: Response, *more: tuple[bytes, bytes]) -> Whole:
    """Return an answer in one piece, with further headers."""
    return Whole(response.status_code, [*response.raw_headers, *more], bytes(response.body))


def raw(headers: Mapping[str, str]) -> RawHeaders:
    """Encode headers as they go over the wire, their names in small letters."""
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
