"""Answers as they were written, kept beside the vectors: a hit is a look into a table, and nothing is written anew.

What is kept is answers to one image with nothing unusual about it, from the second time that somebody asks. They are
right as long as the version that they come from is the one in use: vectors never change, and neither does the way in
which an answer of the same form is written.
"""

from collections import OrderedDict
from typing import NamedTuple

from microtome.manifest import ModelCard
from service.http.raw import RawHeaders

_OVERHEAD = 1500
"""Bytes that an entry costs beside body and key: two tuples, their strings, a dozen headers, dict slot and links."""


class Asked(NamedTuple):
    """All that an answer depends on: the image by its digest, the query string and the Accept header as they came."""

    digest: str
    query: bytes
    accept: bytes


class Answered(NamedTuple):
    """An answer with status 200, without what each request has of its own: its id and its timings."""

    card: ModelCard
    headers: RawHeaders
    body: bytes


class FinishedAnswers:
    """Bounded in bytes, overhead included; the least recently used leave first. For one event loop; no locks."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[Asked, Answered] = OrderedDict()
        self._bytes = 0

    @property
    def possible(self) -> bool:
        """Whether anything is ever kept."""
        return self._max_bytes > 0

    @property
    def size(self) -> int:
        """Bytes held now, overhead included."""
        return self._bytes

    def get(self, asked: Asked) -> Answered | None:
        """Return the answer to this very question, and count it as used."""
        found = self._entries.get(asked)
        if found is not None:
            self._entries.move_to_end(asked)
        return found

    def keep(self, asked: Asked, answered: Answered) -> None:
        """Keep an answer, in the place of an older one to the same question, and drop the least recently used."""
        cost = _cost(asked, answered)
        if cost > self._max_bytes:
            return
        self.drop(asked)
        self._entries[asked] = answered
        self._bytes += cost
        while self._bytes > self._max_bytes:
            self.drop(next(iter(self._entries)))

    def drop(self, asked: Asked) -> None:
        """Forget an answer, if it is there."""
        found = self._entries.pop(asked, None)
        if found is not None:
            self._bytes -= _cost(asked, found)


def _cost(asked: Asked, answered: Answered) -> int:
    return len(answered.body) + len(asked.query) + len(asked.accept) + _OVERHEAD
