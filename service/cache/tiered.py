"""Two tiers as one cache: what the near one lacks is looked up in the far one, and kept near from then on."""

from collections.abc import Mapping, Sequence

from service.embedding.peeking import peek_of
from service.embedding.ports import VectorCache


class TieredCache:
    """`near` is asked first; writes go to both. Either may be a NullCache."""

    def __init__(self, near: VectorCache, far: VectorCache) -> None:
        self._near = near
        self._peek = peek_of(near)
        self._far = far

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the values in the order of the keys, from whichever tier has them.

        Raises:
            CacheUnavailable: as the tiers raise it.
        """
        values = await self._near.get_many(keys)
        lacking = [key for key, value in zip(keys, values, strict=True) if value is None]
        if not lacking:
            return values
        answers = zip(lacking, await self._far.get_many(lacking), strict=True)
        found = {key: value for key, value in answers if value is not None}
        await self._near.put_many(found)
        return [found.get(key) if value is None else value for key, value in zip(keys, values, strict=True)]

    def peek(self, keys: Sequence[str]) -> list[bytes] | None:
        """Return all the values if the near tier has them within reach."""
        return self._peek(keys)

    async def put_many(self, entries: Mapping[str, bytes]) -> None:
        """Store values in both tiers.

        Raises:
            CacheUnavailable: as the tiers raise it; the near one is written first.
        """
        await self._near.put_many(entries)
        await self._far.put_many(entries)

    async def close(self) -> None:
        """Close both tiers."""
        await self._near.close()
        await self._far.close()
