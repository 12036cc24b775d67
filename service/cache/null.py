"""The cache that is chosen when caching is off."""

from collections.abc import Mapping, Sequence


class NullCache:
    """Misses always."""

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return None for every key."""
        return [None] * len(keys)

    async def put_many(self, entries: Mapping[str, bytes]) -> None:
        """Keep nothing."""

    async def close(self) -> None:
        """Nothing to free."""
