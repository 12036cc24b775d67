"""Two model servers behind one name: publishing, freezing, silence and other models fail no request."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.load import Load
from tests.e2e.named_servers import Servers
from tests.e2e.processes import Gateway, eventually, free_port

Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def servers(directory: Path, lite0_models: Path) -> Iterator[Servers]:
    """Two servers, and the name that stands for them."""
    with Servers(directory, lite0_models) as servers:
        one, other = servers.begin(), servers.begin()
        servers.name(one, other)
        yield servers


@pytest.fixture
def load(directory: Path, servers: Servers, request: pytest.FixtureRequest, record_property: Record) -> Iterator[Load]:
    """Callers of a new gateway, whose requests must all be answered, and rightly."""
    grpc_port = free_port()
    (directory / request.node.name).mkdir()
    gateway = Gateway(directory / request.node.name, servers.address, cache_bytes=0, grpc_port=grpc_port)
    try:
        gateway.start()
        with Load(gateway.url, f"127.0.0.1:{grpc_port}", query="?cache=refresh") as load:
            load.more(10)
            yield load
            load.more(20)
        record_property("drill", f"{request.node.name}: {load}")
        load.harmless()
    finally:
        gateway.destroy()


def test_one_of_two_freezes(servers: Servers, load: Load) -> None:
    """Calls under way there are repeated at the other; afterwards it is taken back."""
    one, _ = servers.all[:2]
    one.send(signal.SIGSTOP)
    try:
        load.more(30)
        time.sleep(6)
    finally:
        one.send(signal.SIGCONT)
    load.more(20)
    assert load.p99() < 4


@pytest.fixture
def proxied(servers: Servers) -> Iterator[tuple[str, Callable[[], None]]]:
    """An address that leads to the first server, and a function that makes its open connections fall silent."""
    host = f"{servers.network}.100"
    words = [sys.executable, str(Path(__file__).with_name("black_hole.py"))]
    words += [host, str(servers.port), servers.all[0].host, str(servers.port)]
    proxy = subprocess.Popen(words)

    def listens() -> bool:
        with closing(socket.socket()) as asking:
            return asking.connect_ex((host, servers.port)) == 0

    try:
        eventually(listens, "the proxy listens")
        yield host, lambda: proxy.send_signal(signal.SIGUSR1)
    finally:
        # The gateway goes on: it must have left the proxy before that ends.
        servers.name(*servers.all[:2])
        time.sleep(3)
        proxy.kill()
        proxy.wait()


def test_the_only_connection_falls_silent(
    servers: Servers, load: Load, proxied: tuple[str, Callable[[], None]]
) -> None:
    """New connections work: one of them takes the silent one's place, and repeats its calls."""
    host, silence = proxied
    servers.name(host)
    time.sleep(3)
    load.more(10)
    silence()
    load.more(20)
    silence()
    load.more(20)


def test_a_version_is_published_here_and_later_there(servers: Servers, load: Load, squashed_lite0: Path) -> None:
    """It is used once both serve it; until then the old one is, on both."""
    one, other = servers.all[:2]
    before = set(load.versions)
    one.publish(squashed_lite0)
    time.sleep(5)
    load.more(10)
    assert set(load.versions) == before
    other.publish(squashed_lite0)
    load.until(lambda: {version for version, _ in load.versions} == {1, 2}, "version 2 answers")
