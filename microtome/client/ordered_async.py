"""The same as `ordered`, for asyncio; apart, since importing asyncio takes longer than all the rest of the client."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from typing import TypeVar

from microtome.client.ordered import WINDOW

T = TypeVar("T")
R = TypeVar("R")


async def in_order(
    things: AsyncIterable[T] | Iterable[T], work: Callable[[T], Awaitable[R]], workers: int
) -> AsyncGenerator[R, None]:
    """Work in tasks. When the caller stops early, what is going on is cancelled."""
    begun: deque[asyncio.Future[R]] = deque()
    room = asyncio.Semaphore(workers)

    async def one(thing: T) -> R:
        async with room:
            return await work(thing)

    try:
        async for thing in asynchronously(things):
            begun.append(asyncio.ensure_future(one(thing)))
            while begun and (len(begun) >= WINDOW * workers or begun[0].done()):
                yield await begun.popleft()
        while begun:
            yield await begun.popleft()
    finally:
        for future in begun:
            future.cancel()
        await asyncio.gather(*begun, return_exceptions=True)


async def batches(things: AsyncIterable[T] | Iterable[T], size: int) -> AsyncIterator[list[T]]:
    """Cut an iterable into lists of `size`; the last may be shorter."""
    batch: list[T] = []
    async for thing in asynchronously(things):
        batch.append(thing)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


async def asynchronously(things: AsyncIterable[T] | Iterable[T]) -> AsyncIterator[T]:
    """Iterate over either kind; an ordinary iterable must not block."""
    if isinstance(things, AsyncIterable):
        async for thing in things:
            yield thing
        return
    for thing in things:
        yield thing
