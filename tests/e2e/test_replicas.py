"""Two model servers behind one gateway: one that dies or freezes costs no request."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.answers import embed, vector
from tests.e2e.drill import Drill, exactly
from tests.e2e.photos import NAMES, example
from tests.e2e.processes import Gateway, ModelServer

PHOTOS = {name: example(name) for name in NAMES}


@pytest.fixture(scope="module")
def pair(directory: Path, models: Path) -> Iterator[tuple[Gateway, ModelServer, ModelServer]]:
    """A gateway over two model servers."""
    servers = []
    for name in ("a", "b"):
        (directory / name).mkdir()
        servers.append(ModelServer(directory / name, models))
    one, other = servers
    gateway = Gateway(directory, f"{one.address},{other.address}", cache_bytes=0)
    for process in (one, other, gateway):
        process.start()
    yield gateway, one, other
    for process in (gateway, one, other):
        process.destroy()


def test_a_lost_replica_costs_no_request(
    pair: tuple[Gateway, ModelServer, ModelServer], record_property: Callable[[str, object], None]
) -> None:
    """One freezes under load and thaws; then the other is killed: what was on its way there is asked of the living one.

    That the first one answers when the other is dead shows that it was taken back.
    """
    gateway, one, other = pair
    with gateway.client() as client:
        expected = {name: vector(embed(client, photo)) for name, photo in PHOTOS.items()}
    with Drill(gateway, PHOTOS, exactly(expected)) as drill:
        drill.more(20)
        one.send(signal.SIGSTOP)
        drill.more(30)
        one.send(signal.SIGCONT)
        drill.more(20)
        other.kill()
        drill.more(30)
    record_property("drill", f"one of two model servers frozen, then the other killed: {drill.tally}")
    assert (drill.tally.failures, drill.tally.wrong) == ([], [])
