"""Work in a thread, awaited: `run_in_executor` costs the event loop twice as much, for what nobody here asks of it."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


async def aside(threads: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    """Run `work` in one of the threads; when nobody waits for it any more before it has begun, it is left undone."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001, whatever it is, who waits learns of it
            loop.call_soon_threadsafe(_fail, answer, error)
        else:
            loop.call_soon_threadsafe(_succeed, answer, result)

    handed_over = threads.submit(run)
    try:
        return await answer
    except asyncio.CancelledError:
        handed_over.cancel()
        raise


def _succeed(answer: asyncio.Future[T], result: T) -> None:
    if not answer.done():
        answer.set_result(result)


def _fail(answer: asyncio.Future[T], error: BaseException) -> None:
    if not answer.done():
        answer.set_exception(error)
