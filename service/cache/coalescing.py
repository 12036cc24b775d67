"""Fewer calls to a slow cache: lookups made in one tick of the event loop are one call, and writes share a pipeline."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Generic, TypeVar

from service.core.ports import VectorCache
from service.errors import CacheUnavailable
from service.telemetry.metrics import Metrics

T = TypeVar("T")

_PIPELINE_BYTES = 1 << 20
"""Written together: many vectors, but no more than goes through within the time budget of one call."""

_LOOKUPS = 4
"""Lookups in flight; with all of them waiting, further keys gather for the next one."""


class Coalescer(Generic[T]):
    """Calls a function once with the keys of all callers of one tick, without a timer.

    At most so many calls are in flight; keys that come meanwhile share the next one.
    """

    def __init__(
        self,
        function: Callable[[list[str]], Awaitable[T]],
        in_flight: int,
        unwanted: Callable[[Sequence[str]], object] = lambda _: None,
    ) -> None:
        """Call nothing yet.

        Args:
            function: returns the answer for distinct keys.
            in_flight: the most calls at a time.
            unwanted: called with the keys of a caller who has left before the answer came, when it comes.
        """
        self._function = function
        self._places = asyncio.Semaphore(in_flight)
        self._unwanted = unwanted
        self._callers: list[tuple[Sequence[str], asyncio.Future[T]]] = []
        self._calls: set[asyncio.Task[None]] = set()

    def call(self, keys: Sequence[str]) -> "asyncio.Future[T]":
        """Return a future of the answer that these keys share with others; cancelling it affects no other caller."""
        if not self._callers:
            call = asyncio.create_task(self._call())
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
        # A future for each caller: to shield one task from all of them takes two more turns of the event loop.
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._callers.append((keys, answer))
        return answer

    async def _call(self) -> None:
        async with self._places:
            callers, self._callers = self._callers, []
            try:
                found = await self._function(list(dict.fromkeys([key for keys, _ in callers for key in keys])))
            except asyncio.CancelledError:
                for _, answer in callers:
                    answer.cancel()
                raise
            except Exception as error:  # noqa: BLE001, any error goes to exactly the callers
                for _, answer in callers:
                    if not answer.done():
                        answer.set_exception(error)
                return
        for keys, answer in callers:
            if answer.done():
                self._unwanted(keys)
            else:
                answer.set_result(found)


class CoalescingCache:
    """Looks up the keys of one tick together; a cancelled caller does not affect the others."""

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
        found = await self._lookups.call(keys)
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


class WriteBehindCache:
    """Queues values and writes them when the inner cache has time. Queued values can be read already.

    Values beyond the bound are dropped and counted: the cache may lose any of them at any time.
    """

    def __init__(
        self,
        inner: VectorCache,
        *,
        max_bytes: int,
        drain: float,
        metrics: Metrics,
        dropped: Callable[[Sequence[str]], object] = lambda _: None,
    ) -> None:
        """Write to `inner`.

        Args:
            inner: written to in the background.
            max_bytes: that may wait to be written.
            drain: seconds that `close` gives the last of them.
            metrics: count what is dropped.
            dropped: called with the keys of dropped values, which another gateway may be waiting for.
        """
        self._inner = inner
        self._max_bytes = max_bytes
        self._drain = drain
        self._metrics = metrics
        self._dropped = dropped
        self._waiting: dict[str, bytes] = {}
        self._bytes = 0
        self._writing: asyncio.Task[None] | None = None

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the values in the order of the keys, queued ones included.

        Raises:
            CacheUnavailable: as the inner cache raises it.
        """
        lacking = [key for key in keys if key not in self._waiting]
        # Read now: a value that is written meanwhile is no longer queued afterwards.
        found: dict[str, bytes | None] = {key: self._waiting[key] for key in keys if key in self._waiting}
        if lacking:
            found |= zip(lacking, await self._inner.get_many(lacking), strict=True)
        return [found[key] for key in keys]

    async def put_many(self, entries: Mapping[str, bytes]) -> None:
        """Queue values. Never waits."""
        dropped: list[str] = []
        for key, value in entries.items():
            if self._bytes + len(value) > self._max_bytes:
                dropped.append(key)
            elif key not in self._waiting:
                self._waiting[key] = value
                self._bytes += len(value)
        if dropped:
            self._metrics.cache_writes_dropped.inc(len(dropped))
            self._dropped(dropped)
        if self._waiting and self._writing is None:
            self._writing = asyncio.create_task(self._write(), name="cache writes")

    async def close(self) -> None:
        """Write the queued values, as many as the time for draining allows, and close the inner cache."""
        if self._writing is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._drain):
                    await self._writing
        await self._inner.close()

    async def _write(self) -> None:
        try:
            while self._waiting:
                entries = self._next()
                # Lost: a cache that is down is one that misses, and its guard has counted and logged it.
                with suppress(CacheUnavailable):
                    await self._inner.put_many(entries)
                for key, value in entries.items():
                    del self._waiting[key]
                    self._bytes -= len(value)
        finally:
            self._writing = None

    def _next(self) -> dict[str, bytes]:
        entries: dict[str, bytes] = {}
        size = 0
        for key, value in self._waiting.items():
            size += len(value)
            if entries and size > _PIPELINE_BYTES:
                break
            entries[key] = value
        return entries
