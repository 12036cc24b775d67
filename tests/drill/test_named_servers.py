"""Model servers behind one name come, go and are replaced under load over HTTP and gRPC: no request fails."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.load import Load
from tests.e2e.named_servers import Servers
from tests.e2e.processes import Gateway, free_port
from tests.exported_models import SQUASHED, export


@pytest.fixture(scope="module")
def servers(lite0_models: Path) -> Iterator[Servers]:
    """Two servers, and the name that stands for them."""
    with (
        tempfile.TemporaryDirectory(prefix="microtome-drill-", ignore_cleanup_errors=True) as path,
        Servers(Path(path), lite0_models) as servers,
    ):
        one, other = servers.begin(), servers.begin()
        servers.name(one, other)
        yield servers


@pytest.fixture(scope="module")
def load(servers: Servers) -> Iterator[Load]:
    """Callers of a gateway that go on from the first test to the last."""
    grpc_port = free_port()
    gateway = Gateway(servers.directory, servers.address, cache_bytes=0, grpc_port=grpc_port)
    try:
        gateway.start()
        with Load(gateway.url, f"127.0.0.1:{grpc_port}", query="?cache=refresh") as load:
            load.more(10)
            yield load
    finally:
        gateway.destroy()


@pytest.fixture(autouse=True)
def _harmless(
    load: Load, request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> Iterator[None]:
    yield
    load.more(20)
    record_property("drill", f"{request.node.name}: in all {load}")
    load.harmless()


def test_two_become_four_and_two_again(servers: Servers, load: Load) -> None:
    """New ones are used within seconds; those that leave are out of the name for a while before they are stopped."""
    old = list(servers.all)
    new = [servers.begin(), servers.begin()]
    servers.name(*old, *new)
    load.more(30)
    servers.name(*new)
    time.sleep(5)
    for server in old:
        assert server.terminate() == 0
    load.more(30)


def test_all_are_replaced_at_once(servers: Servers, load: Load) -> None:
    """The name stands for two new addresses only, and the old ones end two lookups later."""
    old = servers.serving()
    new = [servers.begin(), servers.begin()]
    servers.name(*new)
    time.sleep(3)
    for server in old:
        server.terminate()
    load.more(30)


def test_one_is_killed_and_replaced_at_another_address(servers: Servers, load: Load) -> None:
    """The name stands for the dead one for a while longer."""
    dead, left = servers.serving()
    dead.kill()
    load.more(20)
    servers.name(left, servers.begin())
    load.more(20)


def test_another_model_under_the_same_number(servers: Servers, load: Load, lite0_models: Path) -> None:
    """One server after the other is replaced by one that has it: an answer has the fingerprint of what computed it."""
    models = Path(shutil.copytree(lite0_models, servers.directory / "other", copy_function=os.link))
    (servers.directory / "squashed.yaml").write_text(SQUASHED)
    exported = export(servers.directory / "squashed.yaml", models)
    assert exported.returncode == 0, exported.stderr
    shutil.rmtree(models / "lite0" / "1")
    (models / "lite0" / "2").rename(models / "lite0" / "1")
    old, known = servers.serving(), set(load.versions)
    new = [servers.begin(models), servers.begin(models)]
    servers.name(new[0], old[1])
    load.more(20)
    old[0].terminate()
    servers.name(*new)
    load.until(lambda: set(load.versions) != known, "the other model answers")
    old[1].terminate()
    assert len(load.versions) == 2
