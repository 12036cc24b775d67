"""LRU cache of written responses: a hit is one dictionary lookup, and nothing is encoded again.

It holds responses to single images whose vectors all came from the cache, so an image enters with its second request.
An entry is valid while the version that made it is in use: vectors never change, and neither does their encoding.
"""

from http import HTTPStatus
from typing import NamedTuple

from starlette.types import Scope

from microtome.manifest import ModelCard
from service.cache.memory import ByteBoundedLRU
from service.core.ports import ModelServer
from service.core.timings import Timings, timed
from service.http.middleware import headers_of, note, server_timing
from service.http.responses import RawHeaders, RawResponse
from service.telemetry.metrics import Metrics

_OVERHEAD = 1500
"""Bytes of an entry apart from body and key: two tuples, their strings, a dozen headers, dict slot and links."""


class Key(NamedTuple):
    """All that a response depends on: path, the image's digest, query string and Accept header as received."""

    path: str
    digest: str
    query: bytes
    accept: bytes


class Entry(NamedTuple):
    """A response with status 200, without the headers of a single request: its id and its timings.

    Attributes:
        model: as the request named it: a family's towers may be other versions than those in use of their models.
    """

    model: str
    card: ModelCard
    headers: RawHeaders
    body: bytes


def entry_cost(key: Key, entry: Entry) -> int:
    """Return the bytes that an entry takes, overhead included."""
    return len(entry.body) + len(key.query) + len(key.accept) + _OVERHEAD


class ResponseCache:
    """Stores written responses, and returns them while their version is in use."""

    def __init__(self, models: ModelServer, metrics: Metrics, max_bytes: int) -> None:
        """Hold at most `max_bytes`, overhead included; 0 stores nothing."""
        self._models = models
        self._metrics = metrics
        self._table = ByteBoundedLRU(max_bytes, entry_cost)

    def find(self, scope: Scope, digest: str, timings: Timings) -> RawResponse | None:
        """Return the response to an equal request, unless another version has come into use since.

        The request must have no options outside its query string, and must not refuse cached vectors.
        """
        key = _key(scope, digest)
        with timed(timings.note, "cache"):
            entry = self._table.get(key)
            if entry is None:
                return None
            if self._models.card(entry.model) is not entry.card:
                self._table.drop(key)
                return None
        self._metrics.answered_again(entry.card.name, timings.seconds["cache"])
        note(scope, images=1, model=entry.card.name)
        return RawResponse(HTTPStatus.OK, [*entry.headers, server_timing(timings)], entry.body)

    def keep(self, scope: Scope, digest: str, model: str, card: ModelCard, response: RawResponse) -> None:
        """Store a response that has only cached vectors of the version in use, and no headers of a single request."""
        self._table.put(_key(scope, digest), Entry(model, card, response.raw_headers, response.body))


def _key(scope: Scope, digest: str) -> Key:
    return Key(scope["path"], digest, scope["query_string"], headers_of(scope).get(b"accept", b""))
