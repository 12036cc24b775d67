"""Work in threads: its result or its error comes back, and what nobody waits for any more is not begun."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from service.core.compute import in_thread


async def test_results_and_errors_come_back() -> None:
    """Both as if it had been called here."""
    with ThreadPoolExecutor(1) as threads:
        assert await in_thread(threads, lambda: 7) == 7
        with pytest.raises(ZeroDivisionError):
            await in_thread(threads, lambda: 1 // 0)


async def test_what_nobody_waits_for_any_more_is_not_begun() -> None:
    """It leaves the queue; what was begun goes on, and its result is dropped."""
    busy, go_on = Event(), Event()
    done: list[str] = []

    def first() -> None:
        busy.set()
        go_on.wait()
        done.append("first")

    with ThreadPoolExecutor(1) as threads:
        tasks = [asyncio.create_task(in_thread(threads, work)) for work in (first, lambda: done.append("second"))]
        await asyncio.to_thread(busy.wait)
        for task in tasks:
            task.cancel()
        assert [asyncio.CancelledError] * 2 == [type(e) for e in await asyncio.gather(*tasks, return_exceptions=True)]
        go_on.set()
        await in_thread(threads, lambda: done.append("third"))

    assert done == ["first", "third"]
