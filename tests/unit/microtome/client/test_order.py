"""Work on many things at a time comes back in order, in bounded memory, and stops when its caller does."""

import asyncio
import itertools
import threading
from collections.abc import Iterator

import pytest

from microtome.client import async_client, client


def test_results_come_in_order_whichever_is_ready_first() -> None:
    """The first thing waits for the second, and still is the first."""
    second = threading.Event()

    def work(number: int) -> int:
        if number == 0:
            assert second.wait(30)
        if number == 1:
            second.set()
        return number

    assert [0, 1, 2, 3, 4, 5] == list(client.in_order(range(6), work, 2, threading.Event()))


def test_an_endless_iterable_is_read_no_further_than_the_window() -> None:
    """What is not asked for is not begun."""
    read: list[int] = []

    def endless() -> Iterator[int]:
        for number in itertools.count():
            read.append(number)
            yield number

    stopped = threading.Event()
    results = client.in_order(endless(), lambda number: number, 3, stopped)
    assert [0, 1, 2, 3] == list(itertools.islice(results, 4))
    assert 4 + client.WINDOW * 3 >= len(read)
    results.close()  # type: ignore[attr-defined]  # it is a generator
    assert stopped.is_set()


async def test_tasks_come_in_order_and_are_bounded() -> None:
    """Never more than so many at a time, whatever their number."""
    going = most = 0

    async def work(number: int) -> int:
        nonlocal going, most
        going += 1
        most = max(most, going)
        for _ in range(20 - number):
            await asyncio.sleep(0)
        going -= 1
        return number

    assert list(range(20)) == [n async for n in async_client.in_order(range(20), work, 4)]
    assert 4 == most


async def test_tasks_are_cancelled_when_their_caller_stops() -> None:
    """Nothing goes on in the background."""
    cancelled = 0

    async def work(number: int) -> int:
        nonlocal cancelled
        if number == 0:
            return number
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled += 1
            raise
        return number

    results = async_client.in_order(itertools.count(), work, 3)
    assert 0 == await anext(results)
    await results.aclose()
    assert 0 < cancelled <= client.WINDOW * 3


def test_batches_hold_everything_once() -> None:
    """The last may be shorter."""
    assert [[0, 1, 2], [3, 4]] == list(client.batches(range(5), 3))


@pytest.mark.parametrize("count", [0, 5])
async def test_batches_of_an_ordinary_iterable_can_be_awaited(count: int) -> None:
    """An asynchronous client takes both kinds."""
    found = [batch async for batch in async_client.batches(range(count), 3)]
    assert list(client.batches(range(count), 3)) == found
