"""A cache that is down is a cache that misses: no request fails, no vector is wrong."""

import re
import signal
from collections.abc import Callable

import httpx
import pytest
import redis

from tests.e2e.answers import Vector, embed, vector
from tests.e2e.conftest import Stack
from tests.e2e.drill import Drill, exactly
from tests.e2e.photos import NAMES, example

BREAKER_OPEN = r'cache_breaker_open\{operation="\w+"\} 1'
PHOTOS = {name: example(name) for name in NAMES}


def expected_vectors(stack: Stack) -> dict[str, Vector]:
    """What the photos' vectors are while nothing is broken."""
    with stack.gateway.client() as client:
        return {name: vector(embed(client, photo)) for name, photo in PHOTOS.items()}


def test_killing_valkey_under_load_fails_nothing(stack: Stack, record_property: Callable[[str, object], None]) -> None:
    """SIGKILL in the midst of requests, and its return, are invisible to callers but for speed."""
    with Drill(stack.gateway, PHOTOS, exactly(expected_vectors(stack))) as drill:
        drill.more(60)
        stack.valkey.kill()
        drill.more(120)
        stack.valkey.start()
        drill.more(60)
        drill.until(lambda _: stack.valkey.keys() > 0, "vectors are written to the new Valkey")
    record_property("drill", f"Valkey killed and started: {drill.tally}")
    assert (drill.tally.failures, drill.tally.wrong) == ([], [])


def refuses_strangers(client: redis.Redis) -> None:
    """Demand a password that no gateway has, also of those who are connected."""
    client.config_set("requirepass", "secret")
    client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")  # type: ignore[no-untyped-call]


def is_full(client: redis.Redis) -> None:
    """Leave no memory for new entries, and forbid to drop old ones."""
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", "1")


def is_read_only(client: redis.Redis) -> None:
    """Follow a master, as after a failover that the gateway has not heard of."""
    client.execute_command("REPLICAOF", "127.0.0.1", "1")  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("trouble", [refuses_strangers, is_full, is_read_only])
def test_a_valkey_that_refuses_under_load_fails_nothing(
    stack: Stack, record_property: Callable[[str, object], None], trouble: Callable[[redis.Redis], None]
) -> None:
    """No request fails, readiness stays, the breaker shows, and once Valkey is well vectors are written again."""
    with Drill(stack.gateway, PHOTOS, exactly(expected_vectors(stack))) as drill, stack.gateway.client() as client:
        drill.more(20)
        with stack.valkey.client() as valkey:
            trouble(valkey)
        drill.until(lambda _: re.search(BREAKER_OPEN, client.get("/metrics").text), "a breaker opens")
        drill.more(20)
        ready = client.get("/readyz")
        assert ready.status_code == httpx.codes.OK
        assert ready.json()["dependencies"]["redis"].startswith("Left alone after a failure: ")
        # Started again it has forgotten its trouble.
        stack.valkey.kill()
        stack.valkey.start()
        drill.until(lambda _: stack.valkey.keys() > 0, "vectors are written again")
        well = {"model_server": None, "redis": None}
        drill.until(lambda _: client.get("/readyz").json()["dependencies"] == well, "nothing is left alone")
    record_property("drill", f"Valkey {trouble.__name__}: {drill.tally}")
    assert (drill.tally.failures, drill.tally.wrong) == ([], [])


@pytest.mark.parametrize("length", [120])
def test_a_frozen_valkey_under_load_fails_nothing(
    stack: Stack, record_property: Callable[[str, object], None], length: int
) -> None:
    """SIGSTOP is worse than death: connections stand and nothing answers. It costs a timeout, not a request."""
    with Drill(stack.gateway, PHOTOS, exactly(expected_vectors(stack))) as drill:
        drill.more(60)
        stack.valkey.send(signal.SIGSTOP)
        drill.more(length)
        stack.valkey.send(signal.SIGCONT)
        drill.more(60)
    record_property("drill", f"Valkey frozen and thawed: {drill.tally}")
    assert (drill.tally.failures, drill.tally.wrong) == ([], [])
    assert drill.tally.slowest < 5.0
