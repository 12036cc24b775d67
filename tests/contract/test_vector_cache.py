"""What every cache of vectors does, whatever it is made of. Redis is a real Valkey server."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from service.cache.circuit_breaker import FailOpenCache
from service.cache.coalescing import CoalescingCache, WriteBehindCache
from service.cache.memory import Float16Cache, MemoryCache, NullCache, TieredCache
from service.cache.redis.cache import RedisCache
from service.cache.redis.client import RedisServers
from service.core.ports import VectorCache
from service.telemetry.logs import configure
from service.telemetry.metrics import Metrics
from tests.e2e.processes import Valkey
from tests.e2e.redis_topologies import Cluster, Watched
from tests.fakes.vector_cache import FakeCache


def redis(url: str) -> RedisCache:
    """A Redis cache as the gateway opens it."""
    return RedisCache(RedisServers(url), ttl=60, metrics=Metrics())


def fail_open(url: str) -> FailOpenCache:
    """The same behind its guard."""
    return FailOpenCache(redis(url), budget=2, window=5, metrics=Metrics(), log=configure("json", "error"))


def behind(url: str) -> WriteBehindCache:
    """The same with writes behind the answer."""
    return WriteBehindCache(redis(url), max_bytes=1 << 20, drain=5, metrics=Metrics())


MAKES: dict[str, Callable[[str], VectorCache]] = {
    "memory": lambda _: MemoryCache(1 << 20),
    "fake": lambda _: FakeCache(),
    "redis": redis,
    "fail-open": fail_open,
    "gathered": lambda url: CoalescingCache(redis(url)),
    "write-behind": behind,
    "halved": lambda url: Float16Cache(redis(url)),
    "all at once": lambda url: Float16Cache(TieredCache(MemoryCache(1 << 20), CoalescingCache(behind(url)))),
    "memory over redis": lambda url: TieredCache(MemoryCache(1 << 20), redis(url)),
    "memory over nothing": lambda _: TieredCache(MemoryCache(1 << 20), NullCache()),
}


TOPOLOGIES = ("sentinel", "cluster", "everything over sentinel", "everything over a cluster")


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """One master under Sentinel for the module."""
    servers = Watched(tmp_path_factory.mktemp("watched"))
    try:
        servers.start()
        yield servers
    finally:
        servers.destroy()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One cluster for the module."""
    servers = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        servers.start()
        yield servers
    finally:
        servers.destroy()


@pytest.fixture(params=[*MAKES, *TOPOLOGIES])
async def cache(request: pytest.FixtureRequest, valkey: Valkey) -> AsyncIterator[VectorCache]:
    """An empty cache of each kind."""
    kind: str = request.param
    if kind in TOPOLOGIES:
        servers: Watched | Cluster = request.getfixturevalue("cluster" if "cluster" in kind else "watched")
        servers.flush()
        cache = (MAKES["all at once"] if "everything" in kind else redis)(servers.url)
    else:
        with valkey.client() as client:
            client.flushdb()
        cache = MAKES[kind](valkey.url)
    yield cache
    await cache.close()


def vector(*numbers: float) -> bytes:
    """Float32 numbers, which a float16 has room for too."""
    return np.array(numbers, "<f4").tobytes()


async def test_what_is_put_is_got_and_the_rest_is_none(cache: VectorCache) -> None:
    """Values come back in the order of the keys, byte for byte; unknown keys are None."""
    one, two = vector(1, 0.5), vector(-2)
    await cache.put_many({"a": one, "b": two})
    assert [two, None, one, two] == await cache.get_many(["b", "x", "a", "b"])
    assert [] == await cache.get_many([])


async def test_an_empty_cache_has_nothing(cache: VectorCache) -> None:
    """Nothing put, nothing got."""
    assert [None, None] == await cache.get_many(["a", "b"])


async def test_values_of_vector_size_survive(cache: VectorCache) -> None:
    """A flattened feature map of 400 KB is a value like any other."""
    value = vector(*range(1000)) * 100
    await cache.put_many({"large": value})
    assert [value] == await cache.get_many(["large"])


async def test_the_null_cache_keeps_nothing() -> None:
    """The one exception says so: it misses what it was given."""
    cache = NullCache()
    await cache.put_many({"a": b"1"})
    assert [None] == await cache.get_many(["a"])


async def test_the_near_tier_is_filled_from_the_far_one(valkey: Valkey) -> None:
    """What another gateway stored is near after the first look: the second needs no Redis."""
    far = redis(valkey.url)
    await far.put_many({"shared": b"1"})
    near = MemoryCache(1 << 20)
    cache = TieredCache(near, far)
    assert [b"1"] == await cache.get_many(["shared"])
    assert [b"1"] == await near.get_many(["shared"])
    await cache.close()


async def test_entries_in_redis_expire(valkey: Valkey) -> None:
    """Every entry has a time to live near the one set, so that nothing stays for ever; together they do not expire."""
    cache = redis(valkey.url)
    await cache.put_many({f"k{i}": b"1" for i in range(20)})
    with valkey.client() as client:
        lives = [client.pttl(f"k{i}") for i in range(20)]
    assert all(50_000 < life <= 66_000 for life in lives)
    assert max(lives) - min(lives) > 1_000
    await cache.close()


@pytest.mark.parametrize("spoil", ["truncate", "foreign", "misplaced"])
async def test_a_spoiled_value_is_a_miss_and_counted(valkey: Valkey, spoil: str) -> None:
    """Redis may lie: what is not what was stored under this key is no answer."""
    metrics = Metrics()
    cache = RedisCache(RedisServers(valkey.url), ttl=60, metrics=metrics)
    await cache.put_many({"one": b"vector 1", "two": b"vector 2"})
    with valkey.client() as client:
        sealed = client.get("one")
        assert isinstance(sealed, bytes)
        wrong = {"truncate": sealed[:-1], "foreign": b"something else", "misplaced": client.get("two")}[spoil]
        assert isinstance(wrong, bytes)
        client.set("one", wrong)
    assert [None, b"vector 2"] == await cache.get_many(["one", "two"])
    assert "microtome_cache_spoiled_total 1.0" in metrics.exposition().decode()
    await cache.close()


def test_every_kind_is_held_to_the_contract() -> None:
    """The table above names every cache that the gateway can be put together from."""
    package = Path(__file__).parents[2] / "service" / "cache"
    kinds = {path.stem for path in package.glob("*.py")} - {"__init__", "metered"}
    assert kinds == {"memory", "circuit_breaker", "coalescing"}
