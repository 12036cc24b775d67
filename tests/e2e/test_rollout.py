"""`microtome rollout`: forward and back under load, on two model servers and two gateways; a bad version is left."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.e2e.answers import relative_error, vector
from tests.e2e.configured import ConfiguredModelServer
from tests.e2e.drill import SAME, Drill
from tests.e2e.photos import NAMES, example
from tests.e2e.processes import Gateway, ModelServer, eventually

CONFIG = """\
# Which models are served.
model_config_list {{ config {{ name: "lite0" base_path: "{models}/lite0" model_platform: "tensorflow" }} }}
"""


@dataclass(frozen=True)
class Site:
    """What a rollout changes."""

    config: Path
    servers: list[ModelServer]
    gateways: list[Gateway]

    def words(self, *more: str) -> list[str]:
        """The command line of a rollout."""
        servers = [word for server in self.servers for word in ("--server", server.address)]
        gateways = [word for gateway in self.gateways for word in ("--gateway", gateway.url)]
        options = ["--config", str(self.config), "--timeout", "60", *servers, *gateways]
        return [sys.executable, "-m", "microtome", "rollout", "lite0", *more, *options]

    def rollout(self, *more: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        return subprocess.run(self.words(*more), capture_output=True, text=True, check=False, timeout=200)


@pytest.fixture(scope="module")
def site(directory: Path, models: Path, squashed_lite0: Path) -> Iterator[Site]:
    """Two model servers that serve version 1 of a model which has two, and two gateways that follow its label."""
    config = directory / "served.config"
    servers: list[ModelServer] = []
    for name in ("a", "b"):
        (directory / name).mkdir()
        servers.append(ConfiguredModelServer(directory / name, models))
    addresses = ",".join(server.address for server in servers)
    gateways = [Gateway(directory / name, addresses, version_label="stable") for name in ("a", "b")]
    with ExitStack() as stack:
        for process in (*servers, *gateways):
            stack.callback(process.destroy)
        config.write_text(CONFIG.format(models=models))
        for process in (*servers, *gateways):
            process.start()
        pinned = Site(config, servers, gateways)
        first = pinned.rollout("1")
        assert first.returncode == 0, first.stderr
        shutil.copytree(squashed_lite0, models / "lite0" / "2", copy_function=os.link)
        yield pinned


def versions(site: Site) -> set[int]:
    """The versions that the gateways use."""
    return {httpx.get(f"{gateway.url}/models/lite0", trust_env=False).json()["version"] for gateway in site.gateways}


def any_ok(name: str, response: httpx.Response) -> str | None:
    """During the change 200 is all that is asked; versions are compared afterwards."""
    return None if response.status_code == httpx.codes.OK else f"{name}: {response.status_code} {response.text[:200]}"


def test_forward_and_back_under_load(site: Site, record_property: Callable[[str, object], None]) -> None:
    """No request fails, each answer's version and vector belong together, and both ways end where they should."""
    photos = {name: example(name) for name in NAMES}
    with Drill(site.gateways[0], photos, any_ok, clients=2) as drill:
        drill.more(20)
        assert versions(site) == {1}
        forward = site.rollout("2")
        assert (forward.returncode, forward.stderr) == (0, "")
        assert versions(site) == {2}
        drill.more(20)
        back = site.rollout("1")
        assert (back.returncode, back.stderr) == (0, "")
        assert versions(site) == {1}
        drill.more(20)
    record_property("drill", f"version rolled forward and back: {drill.tally}")
    assert (drill.tally.failures, drill.tally.wrong) == ([], [])
    answers = [(name, response.json()) for name, response in drill.tally.answers]
    order = [answer["version"] for _, answer in answers]
    assert (order[0], order[-1], set(order)) == (1, 1, {1, 2})
    assert len({(answer["version"], answer["fingerprint"]) for _, answer in answers}) == 2
    for photo in NAMES:
        of = {v: [vector(a) for name, a in answers if name == photo and a["version"] == v] for v in (1, 2)}
        assert all(relative_error(one, found[0]) <= SAME for found in of.values() for one in found)
        assert relative_error(of[1][0], of[2][0]) > 0.01


def test_a_version_that_cannot_be_loaded_changes_nothing(site: Site) -> None:
    """The command says which server could not and why, and the configuration is as it was."""
    broken = site.config.parent / "models" / "lite0" / "3"
    broken.mkdir()
    (broken / "saved_model.pb").write_bytes(b"no model")
    before = site.config.read_text()
    failed = site.rollout("3")
    assert failed.returncode == 1
    assert "cannot load lite0 3" in failed.stderr
    assert (site.config.read_text(), versions(site)) == (before, {1})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_rollout_leaves_the_configuration_as_it_was(site: Site, number: signal.Signals) -> None:
    """Ctrl-C, or the end of its container, while a version that does not exist is waited for."""
    before = site.config.read_text()
    with subprocess.Popen(site.words("9"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        eventually(lambda: site.config.read_text() != before, "both versions are asked for")
        os.kill(running.pid, number)
        _, said = running.communicate(timeout=60)
    assert (running.returncode, site.config.read_text()) == (130, before), said


def test_the_state_can_be_looked_at(site: Site) -> None:
    """Without a version: what the configuration says, what each server has and each gateway uses."""
    shown = site.rollout().stdout
    assert "configuration  1; stable is 1" in shown
    assert shown.count("1 AVAILABLE") == 2
    assert shown.count("uses 1") == 2
