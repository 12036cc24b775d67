"""Coalesce calls made in one tick of the event loop into one; a cancelled caller does not affect the others."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, TypeVar

from service.core.ports import VectorCache

T = TypeVar("T")

_LOOKUPS = 4
"""Lookups in flight; with all of them waiting, further keys gather for the next one."""


class Coalescer(Generic[T]):
    """Calls a function once with the keys of all callers of one tick, without a timer.

    At most so many calls are in flight; keys that come meanwhile share the next one.
    """

    def __init__(self, function: Callable[[list[str]], Awaitable[T]], in_flight: int) -> None:
        self._function = function
        self._places = asyncio.Semaphore(in_flight)
        self._keys: dict[str, None] = {}
        self._next: asyncio.Task[T] | None = None

    def call(self, keys: Sequence[str]) -> asyncio.Task[T]:
        """Return the task that these keys share with others. Await it behind `asyncio.shield`."""
        if self._next is None:
            self._next = asyncio.create_task(self._run())
        self._keys.update(dict.fromkeys(keys))
        return self._next

    async def _run(self) -> T:
        async with self._places:
            keys, self._keys, self._next = list(self._keys), {}, None
            return await self._function(keys)


class CoalescingCache:
    """Looks up the keys of one tick together."""

    def __init__(self, inner: VectorCache) -> None:
        self._inner = inner
        self._lookups = Coalescer(self._look_up, _LOOKUPS)

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the values in the order of the keys.

        Raises:
            CacheUnavailable: as the inner cache raises it.
        """
        if not keys:
            return []
        found = await asyncio.shield(self._lookups.call(keys))
        return [found[key] for key in keys]

    async def put_many(self, entries: Mapping[str, bytes]) -> None:
        """Store values.

        Raises:
            CacheUnavailable: as the inner cache raises it.
        """
        await self._inner.put_many(entries)

    async def close(self) -> None:
        """Close the inner cache."""
        await self._inner.close()

    async def _look_up(self, keys: list[str]) -> dict[str, bytes | None]:
        return dict(zip(keys, await self._inner.get_many(keys), strict=True))
