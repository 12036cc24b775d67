"""Lookups of one tick of the event loop become one question, and whoever goes away takes no answer from the others."""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

from service.core.peeking import Then
from service.core.ports import VectorCache


class _Waiting(NamedTuple):
    keys: Sequence[str]
    then: Then


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
        answer: asyncio.Future[list[bytes | None]] = asyncio.get_running_loop().create_future()
        self.ask(keys, partial(_settle, answer))
        return await answer

    def ask(self, keys: Sequence[str], then: Then) -> bool:
        """Have the values of at least one key looked up, and `then` told of them later."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._ask)
        self._waiting.append(_Waiting(keys, then))
        return True

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
        except BaseException as error:  # whatever it is, those who asked learn of it
            for each in waiting:
                _tell(each, error)
            if isinstance(error, Exception):
                return
            raise
        for each in waiting:
            _tell(each, [found[key] for key in each.keys])


def _tell(waiting: _Waiting, told: list[bytes | None] | BaseException) -> None:
    try:
        waiting.then(told)
    except Exception as error:  # noqa: BLE001, one who breaks a promise keeps nothing from the others
        context = {"message": "told of what a cache has, and failed", "exception": error}
        asyncio.get_running_loop().call_exception_handler(context)


def _settle(answer: asyncio.Future[list[bytes | None]], told: list[bytes | None] | BaseException) -> None:
    if answer.done():
        return
    if isinstance(told, asyncio.CancelledError):
        answer.cancel()
    elif isinstance(told, BaseException):
        answer.set_exception(told)
    else:
        answer.set_result(told)
