"""After a failure no caller asks for a window, and then one does."""

import asyncio

from service.cache.circuit_breaker import Breaker, FailOpenCache, Guard
from service.errors import CacheUnavailable
from service.telemetry.metrics import Metrics
from tests.fakes.vector_cache import FakeCache
from tests.unit.service.http.conftest import KeptLog


class Clock:
    """A clock that moves when told."""

    now = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def test_breaker_opens_probes_and_closes() -> None:
    """One failure opens it; after the window one caller may probe; its success lets all in."""
    clock = Clock()
    breaker = Breaker(5.0, clock)
    assert breaker.allows()
    breaker.failed()
    assert [True, False, False] == [breaker.is_open, breaker.allows(), breaker.allows()]
    clock.now = 5.0
    assert [True, False] == [breaker.allows(), breaker.allows()]
    breaker.failed()
    clock.now = 9.9
    assert not breaker.allows()
    clock.now = 10.0
    assert breaker.allows()
    breaker.succeeded()
    assert [False, True, True] == [breaker.is_open, breaker.allows(), breaker.allows()]


class Held:
    """A call whose end is another's to choose."""

    def __init__(self) -> None:
        self.end = asyncio.Event()
        self.fails = False

    async def __call__(self) -> str:
        """Wait for the end."""
        await self.end.wait()
        if self.fails:
            raise CacheUnavailable("gone")
        return "answer"


def shown(metrics: Metrics) -> float | None:
    """What the gauge says of reads."""
    return metrics.registry.get_sample_value("microtome_cache_breaker_open", {"operation": "read"})


async def test_what_is_shown_and_told_is_what_the_breaker_is() -> None:
    """A success that comes after another call's failure closes it for all to see; a second failure is told no more."""
    log, metrics = KeptLog(), Metrics()
    guard = Guard("read", budget=60, window=60, metrics=metrics, log=log)
    calls = [Held(), Held(), Held()]
    late, first, second = (asyncio.create_task(guard.call(call)) for call in calls)
    await asyncio.sleep(0)
    for call in calls[1:]:
        call.fails = True
        call.end.set()
    assert (None, None) == (await first, await second)
    assert (True, 1) == (guard.is_open, shown(metrics))
    calls[0].end.set()
    assert "answer" == await late
    assert (False, 0) == (guard.is_open, shown(metrics))
    assert ["cache_down", "cache_up"] == [event["event"] for event in log.events]


async def test_a_write_has_more_time_than_a_read() -> None:
    """Nothing waits for it: one that takes longer than a reader would wait is stored, and is no failure."""
    inner, metrics = FakeCache(), Metrics()
    cache = FailOpenCache(inner, budget=0.01, window=60, metrics=metrics, log=KeptLog())
    inner.gate.clear()
    writing = asyncio.create_task(cache.put_many({"k": b"v"}))
    assert [None] == await cache.get_many(["k"])
    assert not writing.done()
    inner.gate.set()
    await writing
    assert ({"k": b"v"}, False, True) == (inner.entries, cache.writes.is_open, cache.reads.is_open)
