"""A cache whose answers can be held back, and which remembers what it was asked and told."""

import asyncio
from collections.abc import Mapping, Sequence


class FakeCache:
    """Keeps everything; fails when told to."""

    def __init__(self) -> None:
        self.entries: dict[str, bytes] = {}
        self.asked: list[list[str]] = []
        self.told: list[list[str]] = []
        self.failure: Exception | None = None
        self.closed = False
        self.gate = asyncio.Event()
        """Cleared, it holds every answer back until it is set."""
        self.gate.set()

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the values in the order of the keys."""
        self.asked.append(list(keys))
        await self._pass()
        return [self.entries.get(key) for key in keys]

    async def put_many(self, entries: Mapping[str, bytes]) -> None:
        """Store values."""
        self.told.append(list(entries))
        await self._pass()
        self.entries.update(entries)

    async def close(self) -> None:
        """Remember it."""
        self.closed = True

    async def _pass(self) -> None:
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
