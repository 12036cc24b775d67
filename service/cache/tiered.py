"""Two tiers as one cache: what the near tier lacks is looked up in the far one, and then kept in the near one."""

from collections.abc import Mapping, Sequence

from service.cache.memory import MemoryCache
from service.core.ports import VectorCache


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
