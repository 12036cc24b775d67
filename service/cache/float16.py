"""Half the memory: vectors are stored as float16 and returned as float32, with the loss of precision.

A float16 keeps 11 bits: relative errors up to 2^-11 (0.05 %), and what is larger than 65,504 or smaller than 6e-8 in
magnitude cannot be kept. A vector with a number too large is not stored, rather than stored wrong.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from service.core.ports import VectorCache, peek_of

_LARGEST = float(np.finfo(np.float16).max)
_MARK = b"h"
"""After the numbers: the length is odd, so that neither form can be taken for the other."""


class Float16Cache:
    """Stores float32 vectors as float16 in the inner cache."""

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
    return numbers.astype("<f2").tobytes() + _MARK if np.abs(numbers).max(initial=0) <= _LARGEST else None


def widened(value: bytes) -> bytes | None:
    """Return a float16 vector as float32, None for a value of another form."""
    # Gateways with and without this setting may share a Redis: values of the other form are misses.
    if len(value) % 2 == 0 or not value.endswith(_MARK):
        return None
    return np.frombuffer(value[:-1], "<f2").astype("<f4").tobytes()
