"""Many waits of the same length over one timer: each ends when its own time is over, and no other."""

import asyncio
import socket
import time

import pytest

from service.core.timeouts import SharedTimeout, SharedTimer


async def test_alarms_ring_in_the_order_in_which_they_were_set() -> None:
    """The timer is set again for the next."""
    rung: list[str] = []
    over = asyncio.Event()
    alarms = SharedTimer(0.01)
    alarms.set(lambda: rung.append("first"))
    await asyncio.sleep(0.005)
    alarms.set(lambda: rung.append("second"))
    alarms.set(over.set)

    await over.wait()

    assert rung == ["first", "second"]


async def test_an_alarm_that_was_stopped_does_not_ring_and_those_after_it_do() -> None:
    """Nearly all are stopped."""
    rung: list[str] = []
    over = asyncio.Event()
    alarms = SharedTimer(0.01)
    stopped = alarms.set(lambda: rung.append("stopped"))
    alarms.set(over.set)
    alarms.stop(stopped)

    await over.wait()

    assert rung == []


async def test_an_alarm_set_after_the_last_one_rang_rings_too() -> None:
    """With nothing set there is no timer; the next one sets it."""
    alarms = SharedTimer(0.001)
    for _ in range(2):
        over = asyncio.Event()
        alarms.set(over.set)
        await over.wait()


async def test_a_block_whose_time_is_over_is_cancelled_and_others_of_the_same_patience_are_not() -> None:
    """TimeoutError for one, its result for the other."""
    patience = SharedTimeout(0.05)

    async def waiting(for_what: asyncio.Event) -> str:
        try:
            async with patience.bounded():
                await for_what.wait()
        except TimeoutError:
            return "over"
        return "done"

    never, soon = asyncio.Event(), asyncio.Event()
    both = asyncio.gather(waiting(never), waiting(soon))
    await asyncio.sleep(0)
    soon.set()

    assert list(await both) == ["over", "done"]


async def test_after_a_block_in_time_its_task_is_left_alone() -> None:
    """No cancellation comes later."""
    patience = SharedTimeout(0.001)
    async with patience.bounded():
        pass

    await asyncio.sleep(0.02)

    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_who_is_cancelled_by_somebody_else_is_not_told_of_a_timeout() -> None:
    """As with `asyncio.timeout`."""

    async def waiting() -> None:
        async with SharedTimeout(30.0).bounded():
            await asyncio.Event().wait()

    task = asyncio.create_task(waiting())
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_process_that_stood_still_looks_at_its_sockets_before_it_gives_up() -> None:
    """Timers come before sockets, where the answer may lie."""
    loop = asyncio.get_running_loop()
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    with reader, writer:
        async with SharedTimeout(0.01).bounded():
            answer = asyncio.ensure_future(loop.sock_recv(reader, 1))
            await asyncio.sleep(0)
            writer.send(b"x")
            # The time is over before the event loop has had a turn.
            time.sleep(0.03)  # noqa: ASYNC251, on purpose
            assert await answer == b"x"
