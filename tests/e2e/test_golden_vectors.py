"""A model server whose vectors deviate is never routed to; what is healthy serves on. Real servers, a real proxy."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from tensorflow.core.protobuf import saved_model_pb2

from microtome.commands.cli import main
from microtome.golden import GoldenCheck
from tests.e2e.answers import embed, vector
from tests.e2e.configured import ConfiguredModelServer
from tests.e2e.drill import Drill, exactly
from tests.e2e.photos import NAMES, example
from tests.e2e.processes import Gateway, ModelServer, Valkey, eventually, free_port
from tests.fakes.deviating_proxy import DeviatingProxy, Fault, leak, noise, nothing, swap

PHOTOS = {name: example(name) for name in NAMES}
GOLDEN_IMAGES = 8
"""Images of one check: four alone, and the same four together."""


class Lenient(ModelServer):
    """A model server that serves whatever its files compute."""

    def words(self) -> list[str]:
        """With the flag that accepts it."""
        return [*super().words(), "--accept_deviation=1", "--enable_model_warmup=false"]


def rounded(models: Path, source: Path, version: int) -> Path:
    """Write the model with its weights rounded to float16, under the manifest of the unrounded one."""
    target = models / "lite0" / str(version)
    shutil.copytree(source / "lite0" / "1", target)
    file = target / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    for node in saved.meta_graphs[0].graph_def.node:
        tensor = node.attr["value"].tensor
        if node.op == "Const" and tensor.dtype == 1 and tensor.tensor_content:
            halves = np.frombuffer(tensor.tensor_content, "<f4").astype(np.float16)
            tensor.tensor_content = halves.astype("<f4").tobytes()
    file.write_bytes(saved.SerializeToString())
    return models


@pytest.fixture(scope="module")
def healthy(directory: Path, models: Path) -> Iterator[ModelServer]:
    """A model server over what the exporter wrote, twice: the old version stays loaded, as in the shipped policy."""
    shutil.copytree(models / "lite0" / "1", models / "lite0" / "2")
    config = directory / "served.config"
    config.write_text(
        f'model_config_list {{ config {{ name: "lite0" base_path: "{models}/lite0" model_platform: "tensorflow" '
        "model_version_policy { latest { num_versions: 2 } } } }"
    )
    server = ConfiguredModelServer(directory, models)
    server.start()
    yield server
    server.destroy()


@pytest.fixture(scope="module")
def halved(directory: Path, models: Path) -> Iterator[ModelServer]:
    """A model server that serves weights rounded to float16."""
    (directory / "h").mkdir()
    server = Lenient(directory / "h", rounded(directory / "halved", models, version=2))
    server.start()
    yield server
    server.destroy()


@pytest.fixture
def proxy(healthy: ModelServer) -> Iterator[DeviatingProxy]:
    """A proxy that is not up yet."""
    made = DeviatingProxy(healthy.address, free_port())
    yield made
    made.vanish()


@pytest.fixture(scope="module")
def gateway_of_two(directory: Path, healthy: ModelServer) -> Iterator[tuple[Gateway, DeviatingProxy]]:
    """A gateway over the healthy server and the proxy before it."""
    proxy = DeviatingProxy(healthy.address, free_port())
    gateway = Gateway(directory, f"{healthy.address},{proxy.address}")
    gateway.start()
    yield gateway, proxy
    gateway.destroy()
    proxy.vanish()


def refusals(gateway: Gateway) -> float:
    """The metric."""
    text = httpx.get(f"{gateway.url}/metrics", trust_env=False).text
    return float(text.partition('microtome_golden_refusals{model="lite0"} ')[2].split("\n")[0])


@pytest.mark.parametrize("fault", [noise, swap, leak, "weights rounded to float16", nothing])
def test_a_replica_that_deviates_is_never_asked_and_the_healthy_one_serves_on(
    gateway_of_two: tuple[Gateway, DeviatingProxy], halved: ModelServer, fault: Fault | str
) -> None:
    """It gets its golden images and not one more, all answers are right, and none of its vectors is in the cache.

    Without a fault the same proxy is taken up, which shows that it is refused for nothing else.
    """
    gateway, proxy = gateway_of_two
    with gateway.client() as client:
        expected = {name: vector(embed(client, photo)) for name, photo in PHOTOS.items()}
        with Drill(gateway, PHOTOS, exactly(expected)) as drill:
            drill.more(10)
            if callable(fault):
                proxy.appear(fault)
            else:
                proxy.appear(target=halved.address)
            if fault is nothing:
                eventually(lambda: proxy.images > GOLDEN_IMAGES, "the proxy is taken up")
            else:
                eventually(lambda: refusals(gateway) == 1, "the proxy is refused")
            drill.more(30)
            if fault is not nothing:
                assert 0 < proxy.images <= GOLDEN_IMAGES
        proxy.vanish()
        eventually(lambda: refusals(gateway) == 0, "the proxy is forgotten")
        again = {name: vector(embed(client, photo)) for name, photo in PHOTOS.items()}
    assert (drill.tally.failures, drill.tally.wrong) == ([], [])
    assert all((again[name] == expected[name]).all() for name in PHOTOS)


def test_the_only_version_that_deviates_is_503_with_the_setting_that_accepts_it(
    directory: Path, healthy: ModelServer, proxy: DeviatingProxy
) -> None:
    """With the setting it is served, under a fingerprint of its own; when the fault is gone, under its own."""
    (directory / "one").mkdir()
    proxy.appear(noise)
    strict = Gateway(directory / "one", proxy.address)
    accepting = Gateway(directory / "one", proxy.address, accept_deviation="lite0=0.01")
    try:
        strict.launch()
        eventually(strict.alive, "the gateway is up")
        eventually(lambda: strict.last_lines().count("model_version_deviates") == 2, "both versions are refused")
        with strict.client() as client:

            def asked() -> httpx.Response:
                return client.post("/embed", content=PHOTOS["cat"], headers={"content-type": "image/jpeg"})

            eventually(lambda: "deviates" in asked().text, "the answer says why")
            answer = asked()
            assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE
            assert "MICROTOME_ACCEPT_DEVIATION=lite0=" in answer.json()["detail"]
            assert int(answer.headers["retry-after"]) > 0
        assert proxy.images == 2 * GOLDEN_IMAGES  # of both versions
        accepting.start()
        with accepting.client() as client:
            served = embed(client, PHOTOS["cat"])
        assert served["fingerprint"].endswith("~0.01")
        proxy.vanish()
        proxy.appear()
        with strict.client() as client:
            eventually(strict.serving, "the gateway is ready")
            fingerprint = embed(client, PHOTOS["cat"])["fingerprint"]
        assert served["fingerprint"] == f"{fingerprint}~0.01"
    finally:
        strict.destroy()
        accepting.destroy()


def test_a_replica_that_is_replaced_by_one_that_deviates_is_checked_before_it_is_asked(
    gateway_of_two: tuple[Gateway, DeviatingProxy],
) -> None:
    """Also when it is back at once, so that no status was missed: a new connection may lead to another process."""
    gateway, proxy = gateway_of_two
    with gateway.client() as client:
        expected = {name: vector(embed(client, photo)) for name, photo in PHOTOS.items()}
    with Drill(gateway, PHOTOS, exactly(expected)) as drill:
        proxy.appear()
        eventually(lambda: proxy.images > GOLDEN_IMAGES, "the proxy is taken up")
        proxy.vanish()
        proxy.appear(noise)
        eventually(lambda: refusals(gateway) == 1, "the proxy is refused")
        asked = proxy.images
        drill.more(20)
        assert proxy.images == asked > 0
    assert (drill.tally.failures, drill.tally.wrong) == ([], [])


def test_the_old_version_is_kept_while_the_new_one_deviates(directory: Path, proxy: DeviatingProxy) -> None:
    """Requests stay with the old one, and the new one asked for by number is 503."""
    (directory / "two").mkdir()
    gateway = Gateway(directory / "two", proxy.address)
    proxy.spoils = lambda version: version == 2
    proxy.appear(noise)
    try:
        gateway.start()
        with gateway.client() as client:
            assert embed(client, PHOTOS["cat"])["version"] == 1
            assert refusals(gateway) == 1
            pinned = client.post("/embed?version=2", content=PHOTOS["cat"], headers={"content-type": "image/jpeg"})
            assert pinned.status_code == httpx.codes.SERVICE_UNAVAILABLE
            assert "MICROTOME_ACCEPT_DEVIATION" in pinned.json()["detail"]
    finally:
        gateway.destroy()


def test_verify_asks_a_running_server(
    healthy: ModelServer, halved: ModelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every loaded version with the deviation of each output; 1 when one deviates, 2 when none can be asked."""
    assert main(["verify", "--server", healthy.address, "--model=lite0"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[-2] for line in said] == ["ok", "ok"]
    assert main(["verify", f"--server={halved.address}", "--model=lite0", "--json"]) == 1
    (found,) = json.loads(capsys.readouterr().out)
    assert found["outputs"]["top"]["deviation"] > found["outputs"]["top"]["tolerance"] == 1e-4
    assert main(["verify", f"--server={healthy.address}", "--model=other"]) == 2
    assert "no such version of the model" in capsys.readouterr().out
    assert main(["verify", "--server=localhost", "--model=lite0"]) == 2
    assert "Expected a model server as host:port" in capsys.readouterr().err


def test_doctor_says_what_is_wrong_and_what_to_do(
    gateway_of_two: tuple[Gateway, DeviatingProxy],
    halved: ModelServer,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line for each server, version, Redis and gateway; the state of all decides the exit code."""
    gateway, _ = gateway_of_two
    healthy = f"unix:{directory}/m.sock"
    (directory / "doctor").mkdir()
    valkey = Valkey(directory / "doctor")
    valkey.start()
    try:
        words = ["doctor", f"--port={free_port()}", "--gateway", gateway.url, "--redis", valkey.url]
        assert main([*words, f"--server={healthy}", "--model=lite0"]) == 0
        lines = capsys.readouterr().out.splitlines()
        sound = [f"{healthy} lite0 version 1: ", f"{healthy} lite0 version 2: ", f"gateway {gateway.url}: "]
        assert [["ok"]] * 3 == [[line.split()[0] for line in lines if about in line] for about in sound]
        assert "does all that the cache needs" in "".join(lines)
        with valkey.client() as client:
            client.execute_command("ACL", "SETUSER", "default", "-mget")
        absent = f"unix:{directory}/absent"
        monkeypatch.setenv("MICROTOME_MODEL_SERVER", f"{healthy},{halved.address},{absent},no.such.name.invalid:1")
        monkeypatch.setenv("MICROTOME_MODELS", "lite0,other")
        monkeypatch.setenv("MICROTOME_NO_SUCH", "1")
        assert main([*words, "--gateway=http://127.0.0.1:9", "--json"]) == 1
        failed = {one["about"]: one["said"] for one in json.loads(capsys.readouterr().out) if one["state"] == "failed"}
        wrong = f"{halved.address} lite0 version 2"
        names = {"settings", f"{healthy} other", wrong, absent, "no.such.name.invalid:1", "gateway http://127.0.0.1:9"}
        assert names <= failed.keys()
        assert "gateways do not use it" in failed[wrong]
        assert any(said.startswith("MGET is refused") for about, said in failed.items() if about.startswith("redis:"))
        assert main([*words, f"--server={halved.address}", "--model=lit*"]) == 1
        assert "lite0 version 2" in capsys.readouterr().out
    finally:
        valkey.destroy()


def test_the_manifest_that_was_exported_has_golden_vectors(models: Path) -> None:
    """Or the tests above would prove nothing."""
    check = GoldenCheck.read(json.loads((models / "lite0" / "1" / "assets.extra" / "manifest.json").read_bytes()))
    assert check is not None
    assert sum(len(pixels) for pixels in check.requests) == GOLDEN_IMAGES
