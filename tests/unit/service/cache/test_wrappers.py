"""What is put around a cache: shared lookups, writes behind the answer, half the memory."""

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from service.cache.coalescing import CoalescingCache, WriteBehindCache
from service.cache.memory import Float16Cache, MemoryCache
from service.errors import CacheUnavailable
from service.telemetry.metrics import Metrics
from tests.fakes.vector_cache import FakeCache


async def test_lookups_of_one_tick_are_one_question() -> None:
    """Each gets its own values in its own order, and no key is asked twice."""
    inner = FakeCache()
    inner.entries = {"a": b"1", "b": b"2"}
    cache = CoalescingCache(inner)
    answers = await asyncio.gather(cache.get_many(["a"]), cache.get_many(["b", "a"]), cache.get_many(["x"]))
    assert ([b"1"], [b"2", b"1"], [None]) == tuple(answers)
    assert [["a", "b", "x"]] == inner.asked


async def test_a_lookup_that_is_given_up_costs_the_others_nothing() -> None:
    """Others that asked in the same tick still get an answer."""
    inner = FakeCache()
    inner.entries = {"a": b"1"}
    inner.gate.clear()
    cache = CoalescingCache(inner)
    gone, stays = asyncio.create_task(cache.get_many(["a"])), asyncio.create_task(cache.get_many(["a"]))
    await asyncio.sleep(0)
    gone.cancel()
    inner.gate.set()
    assert [b"1"] == await stays
    with pytest.raises(asyncio.CancelledError):
        await gone


async def test_a_failed_question_fails_all_who_asked() -> None:
    """And the next tick asks again."""
    inner = FakeCache()
    inner.failure = CacheUnavailable("gone")
    cache = CoalescingCache(inner)
    answers = await asyncio.gather(cache.get_many(["a"]), cache.get_many(["b"]), return_exceptions=True)
    assert [CacheUnavailable, CacheUnavailable] == [type(answer) for answer in answers]
    inner.failure = None
    assert [None] == await cache.get_many(["a"])


async def test_a_question_that_is_given_up_ends_all_who_asked() -> None:
    """As when the connection that asks is closed: no caller waits on."""

    class Closing(FakeCache):
        async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
            raise asyncio.CancelledError

    cache = CoalescingCache(Closing())
    async with asyncio.timeout(5):
        answers = await asyncio.gather(cache.get_many(["a"]), cache.get_many(["b"]), return_exceptions=True)
    assert [asyncio.CancelledError, asyncio.CancelledError] == [type(answer) for answer in answers]


async def test_keys_gather_while_lookups_are_in_flight() -> None:
    """With four lookups waiting for an answer, all further keys share the fifth."""
    inner = FakeCache()
    inner.gate.clear()
    cache = CoalescingCache(inner)
    tasks = []
    for number in range(20):
        tasks.append(asyncio.create_task(cache.get_many([f"k{number}"])))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    inner.gate.set()
    assert [[None]] * 20 == await asyncio.gather(*tasks)
    assert [*([f"k{number}"] for number in range(4)), [f"k{number}" for number in range(4, 20)]] == inner.asked


def behind(inner: FakeCache, metrics: Metrics, max_bytes: int = 10) -> WriteBehindCache:
    """Writes behind the answer, with room for so many bytes."""
    return WriteBehindCache(inner, max_bytes=max_bytes, drain=30, metrics=metrics)


async def test_nobody_waits_for_a_write_and_everybody_sees_it() -> None:
    """A value is read from the queue before it is written, and writes that came meanwhile go together."""
    inner = FakeCache()
    inner.gate.clear()
    cache = behind(inner, Metrics())
    for key in ("a", "b", "c"):
        await cache.put_many({key: key.encode()})
        await asyncio.sleep(0)
    assert [b"c", b"a"] == await cache.get_many(["c", "a"])
    inner.gate.set()
    await cache.close()
    assert [["a"], ["b", "c"]] == inner.told
    assert {"a": b"a", "b": b"b", "c": b"c"} == inner.entries
    assert inner.closed


async def test_what_goes_beyond_the_bound_is_dropped_and_counted() -> None:
    """Memory for unwritten values is bounded, and free again once they are written."""
    inner, metrics = FakeCache(), Metrics()
    inner.gate.clear()
    cache = behind(inner, metrics)
    await cache.put_many({"a": b"123456", "b": b"123456"})
    assert 1 == metrics.registry.get_sample_value("microtome_cache_writes_dropped_total")
    inner.gate.set()
    while not inner.entries:  # noqa: ASYNC110, the fake does not tell
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    await cache.put_many({"b": b"123456"})
    await cache.close()
    assert {"a", "b"} == set(inner.entries)


async def test_writes_to_a_broken_cache_are_lost_and_nothing_else_is() -> None:
    """The next ones are written once it is well again."""
    inner = FakeCache()
    inner.failure = CacheUnavailable("gone")
    cache = behind(inner, Metrics())
    await cache.put_many({"a": b"1"})
    while not inner.told:  # noqa: ASYNC110, the fake does not tell
        await asyncio.sleep(0)
    inner.failure = None
    await cache.put_many({"b": b"2"})
    await cache.close()
    assert {"b": b"2"} == inner.entries


@pytest.mark.parametrize("scale", [1, 0, 1e-45, 1e-40, 2e-9, 1e-5, 3e4, 7e4, 1e30])
async def test_half_the_memory_costs_what_is_documented(scale: float) -> None:
    """Relative errors up to 2^-11 of each number, however large or small the vector is as a whole."""
    inner = MemoryCache(1 << 20)
    cache = Float16Cache(inner)
    exact = np.random.default_rng(1).lognormal(0, 2, 1280).astype("<f4") * np.float32(scale)
    exact[7] = 0
    await cache.put_many({"a": exact.tobytes()})
    (kept,), (held,) = await cache.get_many(["a"]), await inner.get_many(["a"])
    assert kept is not None
    assert held is not None
    np.testing.assert_allclose(np.frombuffer(kept, "<f4"), exact, rtol=2**-11)
    assert len(held) == 2 * 1280 + 3


async def test_what_half_the_memory_cannot_hold_is_no_answer() -> None:
    """Numbers too far apart are not stored, nor what is not finite; float32 values are misses; old values are read."""
    inner = MemoryCache(1 << 20)
    dropped: list[str] = []
    cache = Float16Cache(inner, dropped.extend)
    numbers = {"apart": [1, 1e-12], "nan": [1, np.nan], "inf": [np.inf]}
    await cache.put_many({name: np.array(each, "<f4").tobytes() for name, each in numbers.items()})
    assert ["apart", "nan", "inf"] == dropped
    old = np.array([1, 0.5], "<f2").tobytes() + b"h"
    await inner.put_many({"foreign": np.ones(2, "<f4").tobytes(), "old": old})
    assert [None, np.array([1, 0.5], "<f4").tobytes()] == await cache.get_many(["foreign", "old"])
