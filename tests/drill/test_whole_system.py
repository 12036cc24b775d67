"""Every part of the system is restarted, killed or changed under load over HTTP and gRPC; no request fails.

Gateways and model servers run as the manifests of `production` with the components `embedded` and `managed-redis` state
them; Envoy stands where an ingress would.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.drill.pods import KEY
from tests.drill.reference import Expected, keras_vectors
from tests.drill.site import Site, restarted, rolled, running
from tests.e2e.answers import Vector
from tests.e2e.load import Answer, Load
from tests.e2e.photos import NAMES
from tests.e2e.processes import eventually
from tests.exported_models import SQUASHED, export

CLIENTS = 2
BETWEEN = 12
TOLERANCE = 1e-4
"""Relative error to Keras (design, invariant 1)."""


@pytest.fixture(scope="module")
def expected() -> Expected:
    """What Keras says of each photo, by version."""
    return keras_vectors(NAMES)


@pytest.fixture(scope="module")
def site(lite0_models: Path) -> Iterator[Site]:
    """Everything, with version 1 in use and version 2 on the disk."""
    # pytest's own directories have paths too long for a socket.
    with tempfile.TemporaryDirectory(prefix="microtome-drill-", ignore_cleanup_errors=True) as path:
        directory = Path(path)
        models = Path(shutil.copytree(lite0_models, directory / "models", copy_function=os.link))
        with running(directory, models) as site:
            site.rollout("1")
            (directory / "squashed.yaml").write_text(SQUASHED)
            exported = export(directory / "squashed.yaml", models)
            assert exported.returncode == 0, exported.stderr
            yield site


@pytest.fixture(scope="module")
def load(site: Site, expected: Expected) -> Iterator[Load]:
    """The clients, which go on from the first test to the last."""
    address = site.balancer.address

    def keras(name: str, answer: Answer) -> Vector:
        return expected[answer.version, name]

    # Two unseen of each known one: a known one costs the model servers nothing.
    with Load(
        f"http://{address}",
        address,
        clients=CLIENTS,
        key=KEY,
        unseen_of=(2, 3),
        reference=keras,
        tolerance=TOLERANCE,
    ) as load:
        load.more(BETWEEN)
        yield load


@pytest.fixture(autouse=True)
def _harmless(
    load: Load, request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> Iterator[None]:
    """What the test does makes no request fail and no vector wrong."""
    before, begin = load.sent.total(), time.monotonic()
    yield
    load.more(BETWEEN)
    seconds = time.monotonic() - begin
    name = request.node.name.removeprefix("test_").replace("_", " ")
    record_property("drill", f"{name}: {load.sent.total() - before} requests in {seconds:.0f} s; in all {load}")
    assert (load.failed, load.wrong) == ([], [])


def test_every_gateway_is_replaced(site: Site) -> None:
    """By the Deployment's order: a new one is ready, the old one is left, pauses, drains and ends with 0."""
    rolled(site, site.gateways)


def test_every_model_server_is_replaced(site: Site, load: Load) -> None:
    """At new addresses, which the gateways learn from DNS when their connections have reached their age."""
    rolled(site, site.model_servers)
    load.more(BETWEEN)


def test_a_model_server_is_killed(site: Site, load: Load) -> None:
    """In the middle of what it computes, without notice; it comes back at the same address."""
    site.model_servers[0].kill()
    load.more(BETWEEN)
    site.published(site.model_servers[0])
    site.model_servers[0].start()
    site.published()


def test_every_valkey_is_restarted(site: Site) -> None:
    """The replica, then, after a switch, the one that was master."""
    replica = site.other(site.master())
    restarted(site, replica)
    restarted(site, site.other(replica))


def test_valkey_fails_over(site: Site, load: Load) -> None:
    """The master is killed; Sentinel makes the replica master, which then answers hits."""
    dead = site.master()
    dead.kill()
    eventually(lambda: site.master() is not dead, "Sentinel makes the replica master", 60.0)
    before = site.master().keys()
    eventually(lambda: site.master().keys() > before, "gateways write to the new master", 60.0)
    load.more(BETWEEN)


def test_a_version_is_rolled_forward_and_back(site: Site, load: Load) -> None:
    """Each answer's vector is its own version's; afterwards all answer with the one in use."""
    for version in (2, 1):
        site.rollout(str(version))
        load.versions.clear()
        load.more(BETWEEN)
        # What was under way when it ended may still be of the other.
        assert load.versions.most_common(1)[0][0][0] == version
    assert (load.failed, load.wrong) == ([], [])
