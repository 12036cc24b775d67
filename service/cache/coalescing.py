"""Coalesce lookups made in one event-loop tick into one MGET; a cancelled caller does not affect the others."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from service.core.ports import VectorCache


class _Lookup(NamedTuple):
    keys: Sequence[str]
    answer: "asyncio.Future[list[bytes | None]]"


class GatheredCache:
    """Asks the inner cache once for all keys that are looked up in the same tick, without a timer."""

    def __init__(self, inner: VectorCache) -> None:
        self._inner = inner
        self._waiting: list[_Lookup] = []
        self._asking: set[asyncio.Task[None]] = set()

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the values in the order of the keys.

        Raises:
            CacheUnavailable: as the inner cache raises it.
        """
        if not keys:
            return []
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._ask)
        lookup = _Lookup(keys, loop.create_future())
        self._waiting.append(lookup)
        return await lookup.answer

    async def put_many(self, entries: Mapping[str, bytes]) -> None:
        """Store values.

        Raises:
            CacheUnavailable: as the inner cache raises it.
        """
        await self._inner.put_many(entries)

    async def close(self) -> None:
        """Close the inner cache."""
        await self._inner.close()

    def _ask(self) -> None:
        waiting, self._waiting = self._waiting, []
        task = asyncio.create_task(self._fill(waiting))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _fill(self, waiting: Sequence[_Lookup]) -> None:
        # The keys of one caller are distinct, those of several callers may overlap.
        keys = list(waiting[0].keys if len(waiting) == 1 else dict.fromkeys(k for each in waiting for k in each.keys))
        try:
            found = dict(zip(keys, await self._inner.get_many(keys), strict=True))
        except asyncio.CancelledError:
            for each in waiting:
                each.answer.cancel()
            raise
        except Exception as error:  # noqa: BLE001, each caller gets it
            for each in waiting:
                if not each.answer.done():
                    each.answer.set_exception(error)
            return
        for each in waiting:
            if not each.answer.done():
                each.answer.set_result([found[key] for key in each.keys])
