"""Redis' client: each caller gets the answers to its own commands, or none."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from service.cache.circuit_breaker import FailOpenCache
from service.cache.coalescing import CoalescingCache
from service.cache.redis.cache import RedisCache
from service.cache.redis.client import RedisServers
from service.errors import CacheUnavailable
from service.telemetry.logs import configure
from service.telemetry.metrics import Metrics
from tests.e2e.processes import Valkey


@pytest.fixture
async def valkey(tmp_path: Path) -> AsyncIterator[Valkey]:
    """A server of one test's own."""
    valkey = Valkey(tmp_path)
    valkey.start()
    yield valkey
    valkey.destroy()


def connections(valkey: Valkey) -> int:
    """How many there are beside the one that asks."""
    with valkey.client() as client:
        return len(client.client_list()) - 1


async def values(servers: RedisServers, *keys: str) -> list[bytes | None]:
    """What is read, within a time that only a hang takes."""
    async with asyncio.timeout(20):
        return await servers.read(keys)


async def test_lookups_side_by_side_share_few_connections_and_get_their_own_answers(valkey: Valkey) -> None:
    """A thousand lookups in parallel take at most eight connections; each has the values of its keys in their order."""
    servers = RedisServers(valkey.url)
    await servers.run([("SET", f"k{number}", f"v{number}" * 500) for number in range(50)])
    keys = [[f"k{(number * step) % 60}" for step in range(1, 5)] for number in range(1000)]
    expected = [[f"v{key[1:]}".encode() * 500 if int(key[1:]) < 50 else None for key in each] for each in keys]
    assert expected == await asyncio.gather(*(values(servers, *each) for each in keys))
    with valkey.client() as client:
        ours = [each for each in client.client_list() if each["cmd"] == "mget"]
    assert 1 <= len(ours) <= 8
    await servers.close()


async def test_an_answer_that_came_too_late_is_nobodys(valkey: Valkey) -> None:
    """Who asks after a lookup that took too long does not get that one's values."""
    servers = RedisServers(valkey.url)
    await servers.run([("SET", "early", "1"), ("SET", "late", "2")])
    assert [b"1"] == await values(servers, "early")
    valkey.send(signal.SIGSTOP)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await servers.read(["early"])
    valkey.send(signal.SIGCONT)
    assert [b"2"] == await values(servers, "late")
    await servers.close()


@pytest.mark.parametrize("turns", range(6))
async def test_a_cancelled_call_takes_no_answer_from_the_next(valkey: Valkey, turns: int) -> None:
    """Wherever a lookup or a pipeline is cancelled, its answers are never read as those of the next call."""
    servers = RedisServers(valkey.url)
    await servers.run([("SET", "one", "1"), ("SET", "two", "2")])
    calls: list[Any] = [servers.read(["one"]), servers.run([("GET", "one"), ("MGET", "one", "one")])]
    for call in calls:
        gone: asyncio.Future[Any] = asyncio.ensure_future(call)
        for _ in range(turns):
            await asyncio.sleep(0)
        gone.cancel()
        for _ in range(3):
            assert [b"2"] == await values(servers, "two")
    await servers.close()


async def test_a_caller_that_gives_up_leaves_the_connection_to_the_next(valkey: Valkey) -> None:
    """Opening a connection goes on when its caller has given up: a slow login costs one call, not all."""
    servers = RedisServers(valkey.url)
    first = asyncio.ensure_future(servers.read(["k"]))
    for _ in range(3):
        await asyncio.sleep(0)
    first.cancel()
    assert [None] == await values(servers, "k")
    assert 1 == connections(valkey)
    await servers.close()


async def test_a_gateway_that_stood_still_does_not_blame_redis(valkey: Valkey) -> None:
    """An answer that lay in the socket while this process did nothing is taken, though its time is over."""
    servers, metrics = RedisServers(valkey.url), Metrics()
    store = RedisCache(servers, ttl=60, metrics=metrics)
    log = configure("json", "error")
    cache = CoalescingCache(FailOpenCache(store, budget=0.2, window=60, metrics=metrics, log=log))
    await cache.put_many({"k": b"v"})
    assert [b"v"] == await cache.get_many(["k"])
    valkey.send(signal.SIGSTOP)
    asked = asyncio.ensure_future(cache.get_many(["k"]))
    for _ in range(10):
        await asyncio.sleep(0)  # the question has left
    valkey.send(signal.SIGCONT)
    time.sleep(0.5)  # noqa: ASYNC251, nothing else shall run
    assert [b"v"] == await asked
    await cache.close()


async def test_a_closed_connection_is_opened_anew(valkey: Valkey) -> None:
    """The lookup that meets the end of its connection may fail, but the next one works, over another connection."""
    servers = RedisServers(valkey.url)
    value = os.urandom(5000)
    await servers.run([("SET", "k", value)])
    assert [value] == await values(servers, "k")
    with valkey.client() as client:
        assert client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes") >= 1
    with suppress(CacheUnavailable):
        await values(servers, "k")
    assert [value] == await values(servers, "k")
    await servers.close()


async def test_after_a_failure_all_idle_connections_are_closed(valkey: Valkey) -> None:
    """They lead to the same server, such as a master that became a replica: each would cost a failure of its own."""
    servers = RedisServers(valkey.url)
    await asyncio.gather(*(servers.read([f"k{number}"]) for number in range(50)))
    assert connections(valkey) > 1
    with pytest.raises(CacheUnavailable, match="wrong number of arguments"):
        await servers.run([("GET",)])
    async with asyncio.timeout(10):
        while connections(valkey):  # noqa: ASYNC110, Redis does not tell
            await asyncio.sleep(0.01)
    assert [None] == await values(servers, "k")
    assert 1 == connections(valkey)
    await servers.close()


@asynccontextmanager
async def speaking(*answers: bytes) -> AsyncIterator[tuple[RedisServers, list[asyncio.Task[object] | None]]]:
    """A server that says OK to a login, and these bytes to the commands of its first, second, … connection."""
    connections: list[asyncio.Task[object] | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(asyncio.current_task())
        answer = answers[len(connections) - 1]
        with suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                writer.write(answer if b"MGET" in data else b"+OK\r\n" * data.count(b"*"))
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    servers = RedisServers(f"redis://127.0.0.1:{port}/0?protocol=2")
    yield servers, connections
    await servers.close()
    server.close()
    await asyncio.gather(*(connection for connection in connections if connection is not None))


async def test_an_answer_of_another_form_ends_the_connection() -> None:
    """What follows it would be read as the next caller's: no caller gets it, and the next has another connection."""
    async with speaking(b"+OK\r\n*1\r\n$1\r\n1\r\n", b"*1\r\n$1\r\n3\r\n") as (servers, connections):
        with pytest.raises(CacheUnavailable, match="Expected 1 values, received"):
            await values(servers, "one")
        assert [b"3"] == await values(servers, "three")
        assert 2 == len(connections)


async def test_an_answer_that_was_not_asked_for_is_not_taken_for_the_next() -> None:
    """A second answer of the right form, behind the right one, ends the connection before the next call uses it."""
    async with speaking(b"*1\r\n$1\r\n1\r\n*1\r\n$1\r\n2\r\n", b"*1\r\n$1\r\n3\r\n") as (servers, connections):
        assert [b"1"] == await values(servers, "one")
        assert [b"3"] == await values(servers, "three")
        assert 2 == len(connections)
