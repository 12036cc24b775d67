"""Several workers behind one port: one total of metrics, a dead one replaced, and a clean end of all."""

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.processes import Gateway, eventually


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Crew(Gateway):
    """A gateway that is told on its command line how many workers it has, against its environment."""

    def words(self) -> list[str]:
        """Two of them."""
        return [*super().words(), "--workers", "2"]


@pytest.fixture(scope="module")
def crew(directory: Path) -> Iterator[Gateway]:
    """A gateway of two workers, with nothing behind it."""
    gateway = Crew(directory, f"unix:{directory}/absent.sock", workers=1)
    gateway.launch()
    eventually(gateway.alive, "it answers")
    yield gateway
    gateway.destroy()


def asked(client: httpx.Client) -> int:
    """How often /models has been answered, by all workers together."""
    found = re.search(r'requests_total\{route="/models",status="200"\} (\d+)', client.get("/metrics").text)
    return int(found[1]) if found else 0


def test_workers_share_a_port_and_their_counts(crew: Gateway) -> None:
    """Whichever worker is asked tells the sum of all, and a dead one's counts stay when another takes its place."""
    for _ in range(40):
        with crew.client() as client:
            assert client.get("/models").status_code == httpx.codes.OK
    with crew.client() as client:
        assert 40 == asked(client)
    before = children(crew.pid)
    assert len(before) == 2
    os.kill(before[0], signal.SIGKILL)
    eventually(lambda: len(set(children(crew.pid)) - {before[0]}) == 2, "another worker takes its place")
    for _ in range(20):
        with crew.client() as client:
            assert client.get("/models").status_code == httpx.codes.OK
    with crew.client() as client:
        assert 60 == asked(client)


def test_sigterm_ends_all_workers_cleanly(crew: Gateway) -> None:
    """Exit code 0, and nothing is left behind."""
    workers = children(crew.pid)
    assert 0 == crew.terminate()
    assert [] == [pid for pid in workers if Path(f"/proc/{pid}").exists()]
