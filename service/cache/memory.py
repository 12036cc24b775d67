"""The first tier: vectors in this process, the least recently used leaving first."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence

from service.cache.metered import Counts

ENTRY_OVERHEAD = 300
"""Bytes that an entry costs beside its value: key string, bytes header, dict slot and links (CPython 3.11)."""


class MemoryCache:
    """Bounded in bytes, overhead included. For one event loop; no locks, and nobody ever waits for it."""

    def __init__(self, max_bytes: int, counts: Counts | None = None) -> None:
        """Keep at most `max_bytes`, and tell `counts` what looks find."""
        self._max_bytes = max_bytes
        self._counts = counts
        self._entries: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0

    @property
    def size(self) -> int:
        """Bytes held now, overhead included."""
        return self._bytes

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the values in the order of the keys, and count them as used."""
        return self.look(keys)

    def look(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return what `get_many` does, to those who do not wait."""
        values = [self._get(key) for key in keys]
        if self._counts is not None:
            self._counts.count(values)
        return values

    def peek(self, keys: Sequence[str]) -> list[bytes] | None:
        """Return all the values and count them as used, or None when one is missing; whoever looks again counts it."""
        values = [self._get(key) for key in keys]
        if None in values:
            return None
        if self._counts is not None:
            self._counts.count(values)
        return values  # type: ignore[return-value]  # none of them is

    async def put_many(self, entries: Mapping[str, bytes]) -> None:
        """Store values and drop the least recently used ones beyond the bound."""
        self.keep(entries)

    def keep(self, entries: Mapping[str, bytes]) -> None:
        """Do what `put_many` does, for those who do not wait."""
        for key, value in entries.items():
            if key in self._entries:
                self._bytes -= _cost(self._entries.pop(key))
            self._entries[key] = value
            self._bytes += _cost(value)
        while self._bytes > self._max_bytes and self._entries:
            _, dropped = self._entries.popitem(last=False)
            self._bytes -= _cost(dropped)

    async def close(self) -> None:
        """Drop everything."""
        self._entries.clear()
        self._bytes = 0

    def _get(self, key: str) -> bytes | None:
        value = self._entries.get(key)
        if value is not None:
            self._entries.move_to_end(key)
        return value


def _cost(value: bytes) -> int:
    return len(value) + ENTRY_OVERHEAD
