"""What is within reach can be had without waiting, through every wrapper of the memory cache."""

import numpy as np
import pytest

from service.application import open_cache
from service.cache.memory import Float16Cache, MemoryCache, NullCache, TieredCache
from service.cache.metered import HitCounter
from service.core.ports import VectorCache, peek_of
from service.settings import Settings
from service.telemetry.logs import configure
from service.telemetry.metrics import Metrics

ONE, TWO = (np.array([number, 0.5], "<f4").tobytes() for number in (1, 2))


def near() -> MemoryCache:
    """A memory cache with room."""
    return MemoryCache(1 << 20)


@pytest.mark.parametrize(
    "cache",
    [
        near(),
        TieredCache(near(), NullCache()),
        Float16Cache(TieredCache(near(), NullCache())),
    ],
    ids=lambda cache: type(cache).__name__,
)
async def test_all_or_nothing_is_within_reach(cache: VectorCache) -> None:
    """All values in the order of the keys, or none when one of them would have to be waited for."""
    await cache.put_many({"a": ONE, "b": TWO})
    peek = peek_of(cache)
    assert [TWO, ONE] == peek(["b", "a"])
    assert peek(["a", "c"]) is None


async def test_a_cache_that_cannot_be_peeked_into_has_nothing_within_reach() -> None:
    """It is asked as before."""
    assert peek_of(NullCache())(["a"]) is None


async def test_only_what_was_found_is_counted() -> None:
    """What is not within reach is asked for again, and counted then."""
    metrics = Metrics()
    cache = MemoryCache(1 << 20, HitCounter("memory", metrics))
    await cache.put_many({"a": ONE})
    assert cache.peek(["a", "b"]) is None
    assert cache.peek(["a"]) == [ONE]
    text = metrics.exposition().decode()
    assert 'microtome_cache_lookups_total{result="hit",tier="memory"} 1.0' in text or (
        'microtome_cache_lookups_total{tier="memory",result="hit"} 1.0' in text
    )
    assert 'tier="memory",result="miss"} 0.0' in text or 'result="miss",tier="memory"} 0.0' in text


@pytest.mark.parametrize("float16", [False, True])
@pytest.mark.parametrize("redis_url", [None, "redis://127.0.0.1:1/0"])
async def test_the_gateways_cache_can_be_peeked_into(float16: bool, redis_url: str | None) -> None:
    """However it is put together: a wrapper that forgot it would make every hit as dear as a miss of the near tier."""
    settings = Settings(
        model_server=("x:1",), models=("toy",), allow_anonymous=True, cache_float16=float16, redis_url=redis_url
    )
    cache, *_ = open_cache(settings, Metrics(), configure("json", "error"))
    if redis_url is None:
        await cache.put_many({"a": ONE})
        assert [ONE] == peek_of(cache)(["a"])
    else:
        assert [] == peek_of(cache)([])
    await cache.close()
