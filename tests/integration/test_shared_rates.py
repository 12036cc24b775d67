"""Limits by the minute across gateways that share a real Redis, and without it."""

import re
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from microtome.errors import Overloaded
from service.application import _open_keyring
from service.auth import Caller
from service.settings import Settings
from service.telemetry.metrics import Metrics
from tests.e2e.processes import Valkey
from tests.integration.test_redis_rights import page_rule
from tests.unit.service.http.conftest import KeptLog
from tests.unit.service.test_auth import line

KEY = line("a", "key", "requests_per_minute=6", "images_per_minute=1000")


class Gateway:
    """One gateway's keys: the caller of the only one, and what is counted and logged."""

    def __init__(self, caller: Caller, metrics: Metrics, log: KeptLog) -> None:
        self.caller = caller
        self.metrics = metrics
        self.log = log

    @property
    def uncounted(self) -> float:
        """Requests that were admitted without being counted."""
        return self.metrics.registry.get_sample_value("microtome_key_uncounted_total") or 0.0

    async def take(self, images: int = 1) -> bool:
        """Whether a request is admitted."""
        assert self.caller.rate is not None
        try:
            await self.caller.rate.take(images)
        except Overloaded:
            return False
        return True


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    """A server of one test's own."""
    valkey = Valkey(tmp_path)
    valkey.start()
    yield valkey
    valkey.destroy()


@asynccontextmanager
async def gateway(url: str) -> AsyncIterator[Gateway]:
    """A gateway's keys as it opens them."""
    metrics, log = Metrics(), KeptLog()
    settings = Settings(
        model_server="localhost:8500",
        models="m",
        redis_url=url,
        api_keys=KEY,
        cache_budget=1.0,
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("service.application._BREAKER_WINDOW", 0.05)
        keyring, counts = _open_keyring(settings, metrics, log)
    assert keyring is not None
    assert counts is not None
    caller = keyring.identify("key")
    assert caller.rate is not None
    caller.rate._clock = lambda: 6000.0
    yield Gateway(caller, metrics, log)
    await counts.close()


async def test_a_minute_is_shared_and_a_dead_redis_costs_nothing(valkey: Valkey) -> None:
    """Six requests are admitted by two gateways together; without Redis all are, which is counted, and logged once."""
    async with AsyncExitStack() as stack:
        here, there = [await stack.enter_async_context(gateway(valkey.url)) for _ in range(2)]
        admitted = [await each.take() for _ in range(3) for each in (here, there)]
        assert [True] * 6 == admitted
        assert [False, False] == [await here.take(), await there.take()]
        with valkey.client() as client:
            (key,) = client.keys("*")
            assert (b"mt1-rate:{a}:100", {b"requests": b"6", b"images": b"6"}) == (key, client.hgetall(key))
            assert 0 < client.ttl(key) <= 180
        for each in (here, there):
            assert each.caller.rate is not None
            each.caller.rate._clock = lambda: 6000.0 + 120
        valkey.send(signal.SIGKILL)
        assert [True] * 20 == [await here.take() for _ in range(20)]
        assert 20 == here.uncounted
        assert ["cache_down"] == [event["event"] for event in here.log.events]
        assert "rate" == here.log.events[0]["operation"]


async def test_a_redis_that_counts_something_else_costs_nothing(valkey: Valkey) -> None:
    """A key of another type is an error of Redis, and of no request."""
    with valkey.client() as client:
        client.set("mt1-rate:{a}:100", "text")
    async with gateway(valkey.url) as here:
        assert [True] * 10 == [await here.take() for _ in range(10)]
        assert 10 == here.uncounted


async def test_the_rights_of_the_page_are_enough(valkey: Valkey) -> None:
    """The user that docs/redis.md tells operators to copy may count, and nothing else by these commands."""
    with valkey.client() as client:
        client.execute_command(
            "ACL", "SETUSER", "app", "reset", "on", ">s3cret", *re.findall(r"\(.*?\)|\S+", page_rule("microtome"))
        )
    async with gateway(f"redis://app:s3cret@127.0.0.1:{valkey.port}/0") as here:
        assert [True] * 6 == [await here.take() for _ in range(6)]
        assert not await here.take()
        assert 0 == here.uncounted
