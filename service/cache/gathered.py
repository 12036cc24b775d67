"""Lookups of one tick of the event loop become one question, and whoever goes away takes no answer from the others."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from service.embedding.ports import VectorCache


class _Waiting(NamedTuple):
    keys: Sequence[str]
    answer: asyncio.Future[list[bytes | None]]


class GatheredCache:
    """Asks the inner cache once for all keys that are looked up in the same tick. Without a timer."""

    def __init__(self, inner: VectorCache) -> None:
        self._inner = inner
        self._waiting: list[_Waiting] = []
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
        answer: asyncio.Future[list[bytes | None]] = loop.create_future()
        self._waiting.append(_Waiting(keys, answer))
        return await answer

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

    async def _fill(self, waiting: Sequence[_Waiting]) -> None:
        # One caller's keys are all different, as several callers' need not be.
        keys = list(waiting[0].keys if len(waiting) == 1 else dict.fromkeys(k for each in waiting for k in each.keys))
        try:
            found = dict(zip(keys, await self._inner.get_many(keys), strict=True))
        except asyncio.CancelledError:
            for each in waiting:
                each.answer.cancel()
            raise
        except Exception as error:  # noqa: BLE001, whatever it is, those who asked learn of it
            for each in waiting:
                if not each.answer.done():
                    each.answer.set_exception(error)
            return
        for each in waiting:
            if not each.answer.done():
                each.answer.set_result([found[key] for key in each.keys])
