"""What Redis may refuse: the cache needs GET, MGET and SET, does without all else, and says once what is lost."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import redis

from service.cache.circuit_breaker import FailOpenCache
from service.cache.redis.cache import HeldLeases, RedisCache, RedisLeases, Seal, lease_key
from service.cache.redis.client import RedisServers
from service.cache_command import main
from service.telemetry.metrics import Metrics
from tests.e2e.processes import Valkey
from tests.e2e.redis_topologies import Cluster
from tests.exported_models import REPOSITORY
from tests.unit.service.http.conftest import KeptLog

CASE = "+get +mget +set"
KEYS = [f"mt1:{number}" for number in range(8)]
VALUES = {key: np.full(4, number, "<f4").tobytes() for number, key in enumerate(KEYS)}


class Gateway:
    """The parts of a gateway that speak to Redis."""

    def __init__(self, url: str, secret: bytes = b"") -> None:
        self.metrics, self.log, self.notices = Metrics(), KeptLog(), list[tuple[str, str]]()
        servers = RedisServers(url, lambda what, text: self.notices.append((what, text)))
        held, seal = HeldLeases(60), Seal(secret)
        store = RedisCache(servers, ttl=60, metrics=self.metrics, held=held, seal=seal)
        # With time enough for a busy machine.
        self.cache = FailOpenCache(store, budget=10, window=0.05, metrics=self.metrics, log=self.log)
        self.leases = RedisLeases(
            servers,
            held,
            guards=self.cache,
            notice=lambda what, text: self.notices.append((what, text)),
            seal=seal,
        )

    def failures(self) -> float:
        """Calls that failed so far."""
        return self.metrics.registry.get_sample_value("microtome_cache_failures_total") or 0.0

    async def works(self) -> bool:
        """Whether vectors are kept and found again."""
        await self.cache.put_many(VALUES)
        return list(VALUES.values()) == await self.cache.get_many(KEYS)


@asynccontextmanager
async def gateway(url: str, secret: bytes = b"") -> AsyncIterator[Gateway]:
    """One gateway's."""
    found = Gateway(url, secret)
    yield found
    await found.cache.close()


def allowed(valkey: Valkey, rules: str, database: str = "0") -> str:
    """Give a user these rights, empty the server, and return the address with the user's password."""
    with valkey.client() as client:
        client.flushall()
        client.execute_command("ACL", "SETUSER", "app", "reset", "on", ">s3cret", *re.findall(r"\(.*?\)|\S+", rules))
        client.config_resetstat()
    return f"redis://app:s3cret@127.0.0.1:{valkey.port}/{database}"


def page_rule(name: str) -> str:
    """The rights of a line that docs/redis.md tells operators to copy."""
    text = (REPOSITORY / "docs" / "redis.md").read_text(encoding="utf-8")
    (rule,) = re.findall(rf"^user {name} on >\S+ (.*)$", text, flags=re.MULTILINE)
    return str(rule)


@pytest.mark.parametrize("rules", [f"~* {CASE}", page_rule("microtome")], ids=["the case", "the page"])
async def test_get_mget_and_set_are_enough(valkey: Valkey, rules: str) -> None:
    """Vectors are kept and found, and claims are made, held and released; nothing else is even asked for."""
    async with gateway(allowed(valkey, rules)) as one, gateway(allowed(valkey, rules)) as two:
        assert not (await one.leases.acquire(KEYS[:2])).elsewhere
        assert frozenset(KEYS[:2]) == (await two.leases.acquire(KEYS[:2])).elsewhere
        assert await one.works()
        assert set(KEYS[:2]) == set((await two.leases.acquire(KEYS[:2])).found)
        two.leases.release(KEYS[:2])
        assert ([], [], 0.0) == (one.notices, two.notices, one.failures() + two.failures())
    with valkey.client() as client:
        used = {name.removeprefix("cmdstat_") for name in client.info("commandstats")}
    # What the test itself asks, apart.
    assert {"auth", "get", "mget", "set"} >= used - {"info", "config|resetstat", "acl|setuser", "flushall", "hello"} - {
        name for name in used if name.startswith("client|")
    }


async def test_refused_claims_are_done_without_and_told_once(valkey: Valkey) -> None:
    """Each gateway computes for itself; vectors are shared as before."""
    async with gateway(allowed(valkey, f"~mt1:* {CASE}")) as one:
        for _ in range(3):
            acquired = await one.leases.acquire(KEYS)
            assert ({}, frozenset()) == (acquired.found, acquired.elsewhere)
            assert await one.works()
        assert (["claims"], 0.0) == ([what for what, _ in one.notices], one.failures())
        assert "compute the same vector twice" in one.notices[0][1]


async def test_a_refused_database_is_done_without_and_told_once(valkey: Valkey) -> None:
    """Keys name what they hold, so the first database keeps them as well."""
    async with gateway(allowed(valkey, f"~* {CASE}", database="3")) as one:
        assert await one.works()
        assert ["SELECT"] == [what for what, _ in one.notices]
        assert "database 0, since 3 was refused" in one.notices[0][1]


async def test_a_password_that_a_server_does_not_want_is_done_without(valkey: Valkey) -> None:
    """As while passwords are introduced: the gateways have it first."""
    async with gateway(f"redis://:s3cret@127.0.0.1:{valkey.port}") as one:
        assert await one.works()
        assert ["AUTH"] == [what for what, _ in one.notices]
        assert "s3cret" not in one.notices[0][1]
    async with gateway(f"redis://app:wrong@127.0.0.1:{valkey.port}") as two:
        assert not await two.works()
        assert {"AuthenticationError: invalid username-password pair or user is disabled."} == {
            event["reason"] for event in two.log.events
        }


async def test_what_may_not_be_written_is_read(valkey: Valkey) -> None:
    """A refused SET costs the writes, and the log names it."""
    async with gateway(allowed(valkey, f"~* {CASE}")) as one:
        assert await one.works()
    with valkey.client() as client:
        client.execute_command("ACL", "SETUSER", "app", "-set")
    async with gateway(f"redis://app:s3cret@127.0.0.1:{valkey.port}") as two:
        assert await two.works()
        assert (True, False) == (two.cache.writes.is_open, two.cache.reads.is_open)
        assert "no permissions to run the 'set' command" in str(two.log.events[0]["reason"])


async def test_a_key_of_another_type_is_a_miss_and_is_written_anew(valkey: Valkey) -> None:
    """Reading, claiming and writing go on; no breaker opens."""
    url = allowed(valkey, f"~* {CASE}")
    with valkey.client() as client:
        client.rpush(KEYS[0], "a", "list")
        client.hset(lease_key(KEYS[1]), "a", "hash")
    async with gateway(url) as one:
        assert [None] * 8 == await one.cache.get_many(KEYS)
        acquired = await one.leases.acquire(KEYS)
        assert ({}, frozenset(KEYS[1:2])) == (acquired.found, acquired.elsewhere)
        assert await one.works()
        assert 0.0 == one.failures()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One cluster for the module, whose user `app` may do what the page says."""
    servers = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        servers.start()
        for node in servers.nodes:
            with node.client() as client:
                rules = page_rule("microtome-cluster").split()
                client.execute_command("ACL", "SETUSER", "app", "reset", "on", ">s3cret", *rules)
        yield servers
    finally:
        servers.destroy()


@pytest.mark.parametrize("login", ["", "app:s3cret@"], ids=["all rights", "the page"])
async def test_a_cluster_named_as_one_server_is_used_as_a_cluster_and_told_once(cluster: Cluster, login: str) -> None:
    """The first call that meets another node's slot fails; from then on it is a cluster, whose address is told."""
    cluster.flush()
    async with gateway(f"redis://{login}127.0.0.1:{cluster.nodes[0].port}") as one:
        async with asyncio.timeout(20):
            while not await one.works():  # noqa: ASYNC110, Redis tells none
                await asyncio.sleep(0.02)
        assert ["cluster"] == [what for what, _ in one.notices]
        assert "redis+cluster://" in one.notices[0][1]
        failures = one.failures()
        for _ in range(3):
            assert await one.works()
        assert failures == one.failures()


async def test_a_key_of_another_type_in_a_cluster_is_a_miss_too(cluster: Cluster) -> None:
    """GET says so as an error, in place of MGET's nothing."""
    cluster.flush()
    with redis.RedisCluster("127.0.0.1", cluster.nodes[0].port) as client:
        for key in KEYS:
            client.rpush(key, "a list")
    async with gateway(f"{cluster.url.replace('://', '://app:s3cret@')}") as one:
        assert [None] * 8 == await one.cache.get_many(KEYS)
        assert not (await one.leases.acquire(KEYS)).elsewhere
        assert await one.works()
        assert 0.0 == one.failures()
        assert [] == one.notices


@pytest.mark.parametrize("secret", [b"", b"of these gateways"], ids=["checksum", "HMAC"])
async def test_what_others_write_is_not_served(valkey: Valkey, secret: bytes) -> None:
    """A value moved to another key, one that is not finite, and with a secret one that is forged: each is a miss."""
    url, name = allowed(valkey, f"~* {CASE}"), Seal(secret).name
    nan = np.full(4, np.nan, "<f4").tobytes()
    async with gateway(url, secret) as one:
        assert await one.works()
        with valkey.client() as client:
            replayed = client.get(name(KEYS[1]))
            assert isinstance(replayed, bytes)
            for key, wrong in (
                (KEYS[0], replayed),
                (KEYS[2], Seal(secret).wrap(KEYS[2], nan)),
                (KEYS[3], Seal(b"of others").wrap(KEYS[3], VALUES[KEYS[3]])),
                *([(KEYS[4], Seal().wrap(KEYS[4], VALUES[KEYS[5]]))] if secret else []),
            ):
                client.set(name(key), wrong)
        missed = {0, 2, 3, 4} if secret else {0, 2, 3}
        expected = [None if number in missed else VALUES[key] for number, key in enumerate(KEYS)]
        assert expected == await one.cache.get_many(KEYS)
        assert len(missed) == one.metrics.registry.get_sample_value("microtome_cache_spoiled_total")
        acquired = await one.leases.acquire(KEYS)
        assert {key: value for key, value in zip(KEYS, expected, strict=True) if value} == acquired.found


async def test_gateways_with_another_secret_have_entries_of_their_own(valkey: Valkey) -> None:
    """While a secret is introduced or changed the two do not overwrite, mistrust or wait for each other's."""
    url = allowed(valkey, f"~* {CASE}")
    async with gateway(url) as old, gateway(url, b"of these gateways") as new:
        await old.cache.put_many(VALUES)
        assert [None] * 8 == await new.cache.get_many(KEYS)
        assert not (await old.leases.acquire(["mt1:x"])).elsewhere | (await new.leases.acquire(["mt1:x"])).elsewhere
        await new.cache.put_many({KEYS[0]: VALUES[KEYS[1]]})
        assert [VALUES[KEYS[0]]] == await old.cache.get_many(KEYS[:1])
        assert [VALUES[KEYS[1]]] == await new.cache.get_many(KEYS[:1])
        assert not new.metrics.registry.get_sample_value("microtome_cache_spoiled_total")


@pytest.mark.parametrize("kind", ["redis", "redis+cluster"])
def test_operators_count_and_clear_with_the_rights_of_the_page(
    kind: str, valkey: Valkey, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    """`microtome cache` finds signed and unsigned entries of a fingerprint, and a refusal is a sentence."""
    nodes = [valkey] if kind == "redis" else cluster.nodes
    for node in nodes:
        with node.client() as client:
            client.flushall()
            client.execute_command(
                "ACL", "SETUSER", "app", "reset", "on", ">s3cret", "~mt1*", *CASE.split(), "+cluster"
            )
            rules = page_rule("microtome-admin").split()
            client.execute_command("ACL", "SETUSER", "admin", "reset", "on", ">s3cret", *rules)
    where = f"127.0.0.1:{nodes[0].port}"
    fingerprint = 64 * "a"
    names = [seal.name(f"mt1:{fingerprint}:{number}:top") for number in range(8) for seal in (Seal(), Seal(b"x" * 16))]
    filled = redis.Redis.from_url(valkey.url) if kind == "redis" else redis.RedisCluster("127.0.0.1", nodes[0].port)
    with filled as client:
        for name in names:
            client.set(name, b"1234")
    words = ["--redis", f"{kind}://admin:s3cret@{where}", "--fingerprint", fingerprint]
    assert 0 == main(["cache", "stats", *words])
    assert 0 == main(["cache", "clear", *words])
    assert 0 == main(["cache", "stats", *words])
    told = capsys.readouterr().out
    assert [f" {number} vectors" in line for number, line in zip((16, 16, 0), told.splitlines(), strict=True)] == [
        True
    ] * 3
    assert 1 == main(["cache", "stats", "--redis", f"{kind}://app:s3cret@{where}", "--fingerprint", fingerprint])
    refused = capsys.readouterr().err
    assert 1 == len(refused.splitlines())
    assert "s3cret" not in refused


async def test_a_redis_that_is_not_there_at_start_is_told_in_one_line_and_found_later(tmp_path: Path) -> None:
    """No request has to come for either."""
    valkey = Valkey(tmp_path)
    async with gateway(valkey.url) as one:
        trying = asyncio.create_task(one.cache.until_found())
        async with asyncio.timeout(20):
            while one.failures() < 3:  # noqa: ASYNC110, nothing tells
                await asyncio.sleep(0.02)
            assert ["cache_down"] == [event["event"] for event in one.log.events]
            assert "Connect call failed" in str(one.log.events[0]["reason"])
            await asyncio.to_thread(valkey.start)
            await trying
        assert ["cache_down", "cache_up"] == [event["event"] for event in one.log.events]
    valkey.destroy()
