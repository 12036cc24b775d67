"""Work on many things at a time comes back in order, in bounded memory, and stops when its caller does."""

import asyncio
import itertools
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from microtome.client import async_client, client

Read = Callable[..., Iterator[Any]]
both = pytest.mark.parametrize("read", [client.read_here, client.read_apart])


@both
def test_results_come_in_order_whichever_is_ready_first(read: Read) -> None:
    """The first thing waits for the second, and still is the first."""
    second = threading.Event()

    def work(number: int) -> int:
        if number == 0:
            assert second.wait(30)
        if number == 1:
            second.set()
        return number

    assert [0, 1, 2, 3, 4, 5] == list(read(range(6), work, 2, threading.Event()))


@both
def test_an_endless_iterable_is_read_no_further_than_the_window(read: Read) -> None:
    """What is not asked for is not begun."""
    seen: list[int] = []

    def endless() -> Iterator[int]:
        for number in itertools.count():
            seen.append(number)
            yield number

    stopped = threading.Event()
    results = read(endless(), lambda number: number, 3, stopped)
    assert [0, 1, 2, 3] == list(itertools.islice(results, 4))
    assert 4 + client.WINDOW * 3 >= len(seen)
    results.close()  # type: ignore[attr-defined]  # it is a generator
    assert stopped.is_set()


@both
def test_an_error_of_the_iterable_is_the_callers(read: Read) -> None:
    """Also where another thread reads."""

    def broken() -> Iterator[int]:
        yield 1
        raise LookupError("no more rows")

    with pytest.raises(LookupError, match="no more rows"):
        list(read(broken(), lambda number: number, 2, threading.Event()))


def test_the_calling_thread_reads_unless_results_may_not_wait() -> None:
    """A database's cursor may be used by its own thread only."""

    def names() -> Iterator[str]:
        yield threading.current_thread().name

    (here,) = client.read_here(names(), str, 1, threading.Event())
    (apart,) = client.read_apart(names(), str, 1, threading.Event())
    assert (threading.current_thread().name, "microtome-reader") == (here, apart)


def test_no_result_waits_for_the_next_item() -> None:
    """Each is there before the next item is given; a caller who stops does not wait for it either."""
    given: queue.SimpleQueue[int] = queue.SimpleQueue()
    results = client.read_apart(iter(given.get, None), lambda number: -number, 4, threading.Event())
    for number in range(5):
        given.put(number)
        assert -number == next(results)
    results.close()  # type: ignore[attr-defined]  # it is a generator
    given.put(5)


def test_a_finished_batch_does_not_wait_for_the_next() -> None:
    """It is yielded between two items of the next batch."""
    filling: Iterator[int | None] = itertools.chain([7], itertools.repeat(None))
    assert 7 == next(client.read_here(filling, int, 1, threading.Event()))


async def test_no_awaited_result_waits_for_the_next_item() -> None:
    """For both kinds of clients; and the source is closed when the caller stops."""
    given: asyncio.Queue[int] = asyncio.Queue()
    closed = False

    async def items() -> AsyncIterator[int]:
        nonlocal closed
        try:
            while True:
                yield await given.get()
        finally:
            closed = True

    async def work(number: int) -> int:
        return -number

    results = async_client.in_order(items(), work, 4)
    for number in range(5):
        given.put_nowait(number)
        assert -number == await anext(results)
    await results.aclose()
    assert closed


async def test_an_error_of_an_awaited_iterable_is_the_callers() -> None:
    """After the results of what came before it."""

    async def broken() -> AsyncIterator[int]:
        yield 1
        raise LookupError("no more rows")

    async def work(number: int) -> int:
        return number

    results = async_client.in_order(broken(), work, 2)
    assert 1 == await anext(results)
    with pytest.raises(LookupError, match="no more rows"):
        await anext(results)


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
    await asyncio.sleep(0)
    await results.aclose()
    assert 0 < cancelled <= client.WINDOW * 3


def test_batches_hold_everything_once() -> None:
    """The last may be shorter."""
    assert [None, None, [0, 1, 2], None, None, [3, 4]] == list(client.batches(range(5), 3))


@pytest.mark.parametrize("count", [0, 5])
async def test_batches_of_an_ordinary_iterable_can_be_awaited(count: int) -> None:
    """An asynchronous client takes both kinds."""
    found = [batch async for batch in async_client.batches(range(count), 3)]
    assert [batch for batch in client.batches(range(count), 3) if batch] == found
