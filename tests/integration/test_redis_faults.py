"""Redis dead, frozen, refusing or lying costs the time budget once, never an error, and is found again by itself."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from service.cache.circuit_breaker import FailOpenCache
from service.cache.redis.cache import HeldLeases, RedisCache, RedisLeases
from service.cache.redis.client import RedisServers
from service.errors import CacheUnavailable
from service.telemetry.logs import configure
from service.telemetry.metrics import Metrics
from tests.e2e.processes import Valkey
from tests.e2e.redis_topologies import Cluster
from tests.unit.service.http.conftest import KeptLog

BUDGET, WINDOW = 0.2, 0.5


class Guarded:
    """A guarded cache over a Valkey server of its own."""

    def __init__(self, valkey: Valkey) -> None:
        self.valkey = valkey
        self.metrics = Metrics()
        store = RedisCache(RedisServers(valkey.url), ttl=60, metrics=self.metrics)
        self.log = KeptLog()
        self.cache = FailOpenCache(store, budget=BUDGET, window=WINDOW, metrics=self.metrics, log=self.log)

    def failures(self) -> float:
        """Calls that failed so far."""
        return self.metrics.registry.get_sample_value("microtome_cache_failures_total") or 0.0

    async def answers(self) -> bool:
        """Whether a stored value comes back."""
        await self.cache.put_many({"k": b"v"})
        return [b"v"] == await self.cache.get_many(["k"])


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[Guarded]:
    """A cache that works, until a test breaks its server."""
    valkey = Valkey(tmp_path)
    valkey.start()
    guarded = Guarded(valkey)
    try:
        assert await guarded.answers()
        yield guarded
    finally:
        await guarded.cache.close()
        valkey.destroy()


def frozen(valkey: Valkey) -> None:
    """Stop the server in its tracks: connections stay open and nothing answers."""
    valkey.send(signal.SIGSTOP)


def dead(valkey: Valkey) -> None:
    """Kill the server: connections are refused."""
    valkey.kill()


def refusing(valkey: Valkey) -> None:
    """Demand a password that nobody was told."""
    with valkey.client() as client:
        client.config_set("requirepass", "secret")
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "no")


def loading(valkey: Valkey) -> None:
    """Have it ask for a replica's obedience: reads of stale data are refused, and so are writes."""
    with valkey.client() as client:
        client.config_set("replica-serve-stale-data", "no")
        client.execute_command("REPLICAOF", "127.0.0.1", "1")


def mended(fault: Callable[[Valkey], None], valkey: Valkey) -> None:
    """Undo the fault."""
    if fault is frozen:
        valkey.send(signal.SIGCONT)
    elif fault is dead:
        valkey.start()
    else:
        password = "secret" if fault is refusing else None
        with redis.Redis.from_url(valkey.url, password=password) as client:
            client.config_set("requirepass", "")
            client.execute_command("REPLICAOF", "NO", "ONE")


@pytest.mark.parametrize("fault", [frozen, dead, refusing, loading])
async def test_a_broken_redis_costs_the_budget_once_a_window(guarded: Guarded, fault: Callable[[Valkey], None]) -> None:
    """The first call pays at most the budget, the next ones nothing, and after the mending all is as before."""
    fault(guarded.valkey)
    start = time.monotonic()
    assert [None] == await guarded.cache.get_many(["k"])
    assert time.monotonic() - start < BUDGET + 0.5
    assert 1 == guarded.failures()
    start = time.monotonic()
    for _ in range(100):
        assert [None] == await guarded.cache.get_many(["k"])
    # A hundred calls within one window ask Redis never; only a machine that paused for a window lets one more probe.
    assert guarded.failures() <= 1 + (time.monotonic() - start) / WINDOW
    mended(fault, guarded.valkey)
    async with asyncio.timeout(20):
        while not await guarded.answers():  # noqa: ASYNC110, Redis tells nobody that it is back
            await asyncio.sleep(0.05)
    assert guarded.metrics.registry.get_sample_value("microtome_cache_breaker_open", {"operation": "read"}) == 0
    told = [line for line in guarded.log.events if line["operation"] == "read"]
    # On a busy machine it may have been down once more meanwhile.
    assert ("cache_down", "cache_up") == (told[0]["event"], told[-1]["event"])
    assert told[0]["reason"]


def full(valkey: Valkey) -> None:
    """Leave it no memory for new entries, and forbid it to drop old ones."""
    with valkey.client() as client:
        client.config_set("maxmemory", "1")
        client.config_set("maxmemory-policy", "noeviction")


def read_only(valkey: Valkey) -> None:
    """Make it a replica, which refuses writes."""
    with valkey.client() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", "1")


@pytest.mark.parametrize("fault", [full, read_only])
async def test_a_redis_that_refuses_writes_still_answers_reads(
    guarded: Guarded, fault: Callable[[Valkey], None]
) -> None:
    """Writes that are refused are lost and left out for a while; what is there is read as before."""
    fault(guarded.valkey)
    await guarded.cache.put_many({"new": b"v"})
    assert 1 == guarded.failures()
    assert [b"v", None] == await guarded.cache.get_many(["k", "new"])
    await guarded.cache.put_many({"new": b"v"})
    assert 1 == guarded.failures()


NONSENSE = (
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"+PONG\r\n" * 8,
    b"*1\r\n$5\r\nhello\r\n" * 4,
    b"$-1\r\n" * 8,
    b":7\r\n" * 8,
    b"*100000\r\n",
    b"*2000000000\r\n",
    b"$2000000000\r\n",
    b"*2\r\n*2000000000\r\n",
    b"\x00\xff\xfe" * 100,
    b"",
)


@pytest.mark.parametrize(
    ("login", "nonsense"),
    [*(("", nonsense) for nonsense in NONSENSE), *((":secret@", nonsense) for nonsense in NONSENSE[1:5])],
)
async def test_a_server_that_talks_nonsense_is_a_cache_that_misses(nonsense: bytes, login: str) -> None:
    """Whatever stands at Redis' address and whatever it says, to a password too: no error, no wrong vector, no hang."""
    talking: list[asyncio.Task[Any]] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        mine = asyncio.current_task()
        assert mine
        talking.append(mine)
        with suppress(ConnectionError):
            while await reader.read(1 << 16):
                writer.write(nonsense)
                if not nonsense:
                    break
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    metrics = Metrics()
    servers, held = RedisServers(f"redis://{login}{host}:{port}"), HeldLeases(60)
    store = RedisCache(servers, ttl=60, metrics=metrics, held=held)
    log = configure("json", "error")
    cache = FailOpenCache(store, budget=BUDGET, window=0.001, metrics=metrics, log=log)
    leases = RedisLeases(servers, held, guards=cache)
    for _ in range(3):
        assert {} == (await leases.acquire(["k", "l"])).found
        leases.release(["k", "l"])
        await asyncio.sleep(0.002)
        assert [None, None] == await cache.get_many(["k", "l"])
        await cache.put_many({"k": b"v"})
        await asyncio.sleep(0.002)
    await cache.close()
    server.close()
    # Every connection has been closed by us, whatever was said over it.
    async with asyncio.timeout(10):
        await asyncio.gather(*talking)


@pytest.mark.parametrize("address", ["redis://{}", "redis+sentinel://{}/vectors", "redis+cluster://{}"])
@pytest.mark.parametrize("announced", [b"*2000000000\r\n", b"$2000000000\r\n"])
async def test_what_a_server_announces_is_bounded_whatever_it_is(address: str, announced: bytes) -> None:
    """Redis, a Sentinel or a node: no memory is taken, and the reason is told."""
    talking: list[asyncio.Task[Any] | None] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talking.append(asyncio.current_task())
        with suppress(ConnectionError):
            while await reader.read(1 << 16):
                writer.write(announced)
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    servers = RedisServers(address.format(f"{host}:{port}"))
    with pytest.raises(CacheUnavailable, match="one that announces 2000000000"):
        async with asyncio.timeout(20):
            await servers.read(["k"])
    await servers.close()
    server.close()
    # Every connection has been closed by us.
    async with asyncio.timeout(10):
        await asyncio.gather(*(task for task in talking if task))
        await asyncio.sleep(0.01)


async def test_a_cluster_that_dies_is_a_cache_that_misses(tmp_path: Path) -> None:
    """With all nodes gone, or none there from the start, all is missed; once they are back it is a cache again."""
    cluster, metrics = Cluster(tmp_path), Metrics()
    store = RedisCache(RedisServers(cluster.url), ttl=60, metrics=metrics)
    cache = FailOpenCache(store, budget=BUDGET, window=WINDOW, metrics=metrics, log=configure("json", "error"))
    keys = [f"k{number}" for number in range(8)]

    async def answers() -> bool:
        await cache.put_many(dict.fromkeys(keys, b"v"))
        return [b"v"] * len(keys) == await cache.get_many(keys)

    try:
        assert not await answers()
        cluster.start()
        async with asyncio.timeout(60):
            while not await answers():  # noqa: ASYNC110, Redis tells nobody that it is there
                await asyncio.sleep(0.05)
        for node in cluster.nodes:
            node.kill()
        assert [None] * len(keys) == await cache.get_many(keys)
        for node in cluster.nodes:
            node.launch()
        async with asyncio.timeout(60):
            while not await answers():  # noqa: ASYNC110, likewise
                await asyncio.sleep(0.05)
    finally:
        await cache.close()
        cluster.destroy()
