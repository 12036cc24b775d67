"""A cache that is down is a cache that misses: no request fails, no vector is wrong."""

import signal
from collections.abc import Callable

import pytest

from tests.e2e.answers import Vector, embed, vector
from tests.e2e.conftest import Stack
from tests.e2e.drill import Drill, exactly
from tests.e2e.photos import NAMES, example

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
