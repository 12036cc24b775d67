"""Lookups of one tick of the event loop become one question, and whoever goes away takes no answer from the others."""

import asyncio
from collections.abc import Mapping, Sequence

from service.embedding.ports import VectorCache


class GatheredCache:
    """Asks the inner cache once for all keys that are looked up in the same tick. Without a timer."""

    def __init__(self, inner: VectorCache) -> None:
        self._inner = inner
        self._keys: dict[str, None] = {}
        self._answer: asyncio.Future[Mapping[str, bytes | None]] | None = None
        self._asking: set[asyncio.Task[None]] = set()

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the values in the order of the keys.

        Raises:
            CacheUnavailable: as the inner cache raises it.
        """
        if not keys:
            return []
        if self._answer is None:
            loop = asyncio.get_running_loop()
            self._answer = loop.create_future()
            loop.call_soon(self._ask)
        self._keys.update(dict.fromkeys(keys))
        found = await asyncio.shield(self._answer)
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

    def _ask(self) -> None:
        keys, answer = list(self._keys), self._answer
        self._keys, self._answer = {}, None
        if answer is not None:
            task = asyncio.create_task(self._fill(keys, answer))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    async def _fill(self, keys: list[str], answer: asyncio.Future[Mapping[str, bytes | None]]) -> None:
        try:
            answer.set_result(dict(zip(keys, await self._inner.get_many(keys), strict=True)))
        except asyncio.CancelledError:
            answer.cancel()
            raise
        except Exception as error:  # noqa: BLE001, whatever it is, those who asked learn of it
            answer.set_exception(error)
            # Looked at, lest asyncio complains of an error that nobody stayed for.
            answer.exception()
