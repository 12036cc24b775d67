"""Caches in this process: bounded by bytes, in front of another cache, packing into float16, or none at all."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Generic, TypeVar

import numpy as np

from service.cache.metered import HitCounter
from service.core.ports import VectorCache, peek_of

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

ENTRY_OVERHEAD = 300
"""Bytes that an entry costs besides its value: key string, bytes header, dict slot and links (CPython 3.11)."""
_FLOAT32 = np.dtype("<f4")
_LARGEST = float(np.finfo(np.float16).max)
_SMALLEST = float(np.finfo(np.float16).smallest_normal)
_HIGHEST = 15
"""The largest number of a vector is stored as one below 2^15."""

_MARK = b"s"
"""After the numbers and their exponent: the length is odd, so that neither form can be taken for the other."""

_OLD_MARK = b"h"
"""After numbers without an exponent, as earlier releases stored them."""


class ByteBoundedLRU(Generic[K, V]):
    """Entries bounded in bytes; the least recently used leave first. For one event loop; no locks."""

    def __init__(self, max_bytes: int, cost: Callable[[K, V], int]) -> None:
        """Keep at most `max_bytes`; `cost` says how many an entry takes, overhead included."""
        self.max_bytes = max_bytes
        self.size = 0
        self._cost = cost
        self._entries: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        """Return a value and mark it as used."""
        value = self._entries.get(key)
        if value is not None:
            self._entries.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> None:
        """Store a value, unless it alone is too large, and drop the least recently used ones beyond the bound."""
        cost = self._cost(key, value)
        if cost > self.max_bytes:
            return
        self.drop(key)
        self._entries[key] = value
        self.size += cost
        while self.size > self.max_bytes:
            self.drop(next(iter(self._entries)))

    def drop(self, key: K) -> None:
        """Remove a value, if it is there."""
        value = self._entries.pop(key, None)
        if value is not None:
            self.size -= self._cost(key, value)

    def clear(self) -> None:
        """Remove everything."""
        self._entries.clear()
        self.size = 0


class MemoryCache:
    """Vectors bounded in bytes, overhead included. Never waits."""

    def __init__(self, max_bytes: int, counter: HitCounter | None = None) -> None:
        """Keep at most `max_bytes`, and count hits and misses."""
        self._counter = counter
        self._entries: ByteBoundedLRU[str, bytes] = ByteBoundedLRU(max_bytes, _cost)

    @property
    def size(self) -> int:
        """Bytes held now, overhead included."""
        return self._entries.size

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the values in the order of the keys, and mark them as used."""
        return self.look(keys)

    def look(self, keys: Sequence[str]) -> list[bytes | None]:
        """As `get_many`, without awaiting."""
        values = [self._entries.get(key) for key in keys]
        if self._counter is not None:
            self._counter.count(values)
        return values

    def peek(self, keys: Sequence[str]) -> list[bytes] | None:
        """Return all the values and mark them as used, or None when one is missing, uncounted until the next lookup."""
        values = [self._entries.get(key) for key in keys]
        if None in values:
            return None
        if self._counter is not None:
            self._counter.count(values)
        return values  # type: ignore[return-value]  # none of them is

    async def put_many(self, entries: Mapping[str, bytes]) -> None:
        """Store values and drop the least recently used ones beyond the bound."""
        self.keep(entries)

    def keep(self, entries: Mapping[str, bytes]) -> None:
        """As `put_many`, without awaiting."""
        for key, value in entries.items():
            self._entries.put(key, value)

    async def close(self) -> None:
        """Drop everything."""
        self._entries.clear()


def _cost(_: str, value: bytes) -> int:
    return len(value) + ENTRY_OVERHEAD


class TieredCache:
    """Reads from `near` first; writes go to both."""

    def __init__(self, near: MemoryCache, far: VectorCache) -> None:
        self._near = near
        self._far = far

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the values in the order of the keys, from whichever tier has them.

        Raises:
            CacheUnavailable: as the far tier raises it.
        """
        values = self._near.look(keys)
        missing = [key for key, value in zip(keys, values, strict=True) if value is None]
        if not missing:
            return values
        far = zip(missing, await self._far.get_many(missing), strict=True)
        found = {key: value for key, value in far if value is not None}
        self._near.keep(found)
        return [found.get(key) if value is None else value for key, value in zip(keys, values, strict=True)]

    def peek(self, keys: Sequence[str]) -> list[bytes] | None:
        """Return all the values if the near tier has them."""
        return self._near.peek(keys)

    async def put_many(self, entries: Mapping[str, bytes]) -> None:
        """Store values in both tiers.

        Raises:
            CacheUnavailable: as the far tier raises it; the near one is written first.
        """
        self._near.keep(entries)
        await self._far.put_many(entries)

    async def close(self) -> None:
        """Close both tiers."""
        await self._near.close()
        await self._far.close()


class NullCache:
    """Misses always."""

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return None for every key."""
        return [None] * len(keys)

    async def put_many(self, entries: Mapping[str, bytes]) -> None:
        """Keep nothing."""

    async def close(self) -> None:
        """Nothing to free."""


class Float16Cache:
    """Stores float32 vectors as float16 in the inner cache: half the memory, with a loss of precision.

    A float16 keeps 11 bits: relative errors up to 2^-11 (0.05 %). Each vector is multiplied by a power of two of its
    own, which takes its largest number near float16's largest, so that numbers 2^28 times smaller have their 11 bits
    too. A vector with a yet smaller one, other than 0, is not stored, rather than stored wrong.
    """

    def __init__(self, inner: VectorCache, dropped: Callable[[Sequence[str]], object] = lambda _: None) -> None:
        """Store them in `inner`; `dropped` is called with the keys of those that cannot be stored."""
        self._inner = inner
        self._peek = peek_of(inner)
        self._dropped = dropped

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the values in the order of the keys, each widened to float32 again.

        Raises:
            CacheUnavailable: as the inner cache raises it.
        """
        return [None if value is None else widened(value) for value in await self._inner.get_many(keys)]

    def peek(self, keys: Sequence[str]) -> list[bytes] | None:
        """Return all the values if the inner cache has them in memory, each widened to float32 again."""
        values = self._peek(keys)
        wide = None if values is None else [widened(value) for value in values]
        return None if wide is None or None in wide else wide  # type: ignore[return-value]  # none of them is

    async def put_many(self, entries: Mapping[str, bytes]) -> None:
        """Store values as float16.

        Raises:
            CacheUnavailable: as the inner cache raises it.
        """
        halved = {key: half for key, value in entries.items() if (half := _halved(value)) is not None}
        if len(halved) < len(entries):
            self._dropped([key for key in entries if key not in halved])
        if halved:
            await self._inner.put_many(halved)

    async def close(self) -> None:
        """Close the inner cache."""
        await self._inner.close()


def _halved(value: bytes) -> bytes | None:
    numbers = np.frombuffer(value, "<f4")
    largest = np.abs(numbers).max(initial=0)
    if not np.isfinite(largest):
        return None
    exponent = _HIGHEST - int(np.frexp(largest)[1])
    half = np.ldexp(numbers, exponent).astype("<f2")
    if np.abs(half).min(initial=_LARGEST, where=numbers != 0) < _SMALLEST:
        return None
    return bytes(half) + exponent.to_bytes(2, "little", signed=True) + _MARK


def widened(value: bytes) -> bytes | None:
    """Return a float16 vector as float32, None for a value of another form."""
    # Gateways with and without this setting may share a Redis: values of the other form are misses.
    if len(value) % 2 == 0:
        return None
    if value.endswith(_MARK):
        half, exponent = value[:-3], int.from_bytes(value[-3:-1], "little", signed=True)
        with np.errstate(over="ignore"):  # only a forged exponent does: it is found not to be finite
            return bytes(np.ldexp(np.frombuffer(half, "<f2").astype("<f4"), -exponent))
    return np.frombuffer(value[:-1], "<f2").astype("<f4").tobytes() if value.endswith(_OLD_MARK) else None


def all_finite(value: bytes) -> bool:
    """Whether a stored value, float32 or float16, is a vector of finite numbers."""
    # Widened, since an exponent may take finite numbers beyond float32. What no form fits is a miss for its reader.
    wide = widened(value) if len(value) % 2 else value
    if wide is None or len(wide) % 4:
        return wide is None
    # Half the time of `all()`.
    return b"\0" not in np.isfinite(np.frombuffer(wide, _FLOAT32)).tobytes()
