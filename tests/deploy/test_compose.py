"""The compose file, by its structure: names that are referred to exist, order is by health, nothing is unbounded.

`docker compose config -q` needs Docker's own program; what it would find of misspelt keys is found here by KEYS.
"""

import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from microtome.commands.rollout.command import build_parser
from tests.deploy.manifests import written
from tests.deploy.promql import alerts
from tests.deploy.tfserving import COMPOSE, compose

KEYS = {
    "build",
    "cap_drop",
    "command",
    "depends_on",
    "deploy",
    "entrypoint",
    "env_file",
    "environment",
    "healthcheck",
    "image",
    "init",
    "mem_limit",
    "network_mode",
    "networks",
    "pids_limit",
    "ports",
    "profiles",
    "read_only",
    "restart",
    "security_opt",
    "stop_grace_period",
    "tmpfs",
    "user",
    "volumes",
    "working_dir",
}
SERVICES = compose()["services"]
CHECKOUT = "${CHECKOUT:-../..}/"
MODEL_SERVERS = {"cpu": "tfserving-cpu", "gpu": "tfserving-gpu", "embedded": "modelserver"}

every_service = pytest.mark.parametrize("name", SERVICES)


def chosen(profile: str) -> dict[str, Any]:
    """The services that a profile starts."""
    return {name: s for name, s in SERVICES.items() if profile in s.get("profiles", [profile])}


def _networks(service: dict[str, Any]) -> list[str]:
    """The names of a service's networks."""
    return [] if service.get("network_mode") == "none" else list(service["networks"])


@every_service
def test_keys_are_those_that_compose_knows(name: str) -> None:
    """A misspelt key is an error to Docker; here it is one too."""
    assert set() == SERVICES[name].keys() - KEYS


@every_service
def test_what_is_referred_to_exists(name: str) -> None:
    """Networks, volumes, files and the services waited for."""
    service, document = SERVICES[name], compose()
    assert set(_networks(service)) <= set(document["networks"])
    # In what `microtome manifests` writes for another recipe as well.
    volumes = [volume.removesuffix(":ro").rpartition(":")[0] for volume in service.get("volumes", [])]
    for source in [*volumes, *service.get("env_file", [])]:
        if source.startswith("."):
            assert (COMPOSE.parent / source).exists(), source
            assert (written() / "compose" / source).exists(), source
        elif source.startswith("$"):
            assert (COMPOSE.parents[2] / source.removeprefix(CHECKOUT)).exists(), source
        else:
            assert source in document["volumes"]
    assert set(service.get("depends_on", {})) <= set(SERVICES)


@every_service
def test_services_are_bounded_and_locked_down(name: str) -> None:
    """Memory and processes have a limit; nothing is writable but what is said; no capability is left.

    NVIDIA's container toolkit writes into the root of a container that gets a GPU.
    """
    service = SERVICES[name]
    assert {"mem_limit", "pids_limit", "restart"} <= service.keys()
    assert ("devices" not in str(service.get("deploy")), ["ALL"], ["no-new-privileges:true"]) == (
        service["read_only"],
        service["cap_drop"],
        service["security_opt"],
    )


@every_service
def test_images_are_pinned_and_ports_are_of_this_machine(name: str) -> None:
    """Every image has a full version; what is published, is so on the loopback address."""
    assert re.fullmatch(r"[a-z0-9./-]+:v?\d+\.\d+\.\d+[a-z0-9.-]*", SERVICES[name]["image"])
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))


@every_service
def test_who_is_waited_for_can_say_so(name: str) -> None:
    """Health is asked of services that have a health check, completion of the one that ends."""
    for other, wait in SERVICES[name].get("depends_on", {}).items():
        if wait["condition"] == "service_healthy":
            assert "healthcheck" in SERVICES[other]
        if wait["condition"] == "service_completed_successfully":
            assert not SERVICES[other]["restart"].startswith(("always", "unless-stopped")), other


def test_every_server_has_a_health_check() -> None:
    """All but the jobs that end."""
    assert ["exporter", "gpu-preflight", "rollout"] == [
        name for name, service in SERVICES.items() if "healthcheck" not in service
    ]


@pytest.mark.parametrize("profile", MODEL_SERVERS)
def test_each_profile_has_one_model_server(profile: str) -> None:
    """And it answers to the name that the gateway asks for, whichever it is."""
    servers = [name for name in chosen(profile) if name in MODEL_SERVERS.values()]
    assert [MODEL_SERVERS[profile]] == servers
    assert ["model-server"] == SERVICES[servers[0]]["networks"]["inside"]["aliases"]
    assert "model-server" in chosen(profile)["gateway"]["environment"]["MICROTOME_MODEL_SERVER"]
    first = ["exporter", "gpu-preflight"] if profile == "gpu" else ["exporter"]
    assert {name: {"condition": "service_completed_successfully"} for name in first} == SERVICES[servers[0]][
        "depends_on"
    ]


def test_a_profile_is_chosen_where_the_caller_chooses_none() -> None:
    """Plain `docker compose up` has a model server."""
    assert "COMPOSE_PROFILES=cpu" in (COMPOSE.parent / ".env").read_text(encoding="utf-8").splitlines()


def test_a_rollout_asks_the_services_that_run_and_changes_the_file_that_they_read() -> None:
    """Its options are those of the command; `up` never starts it; its file is the model servers' own, to be written."""
    job = SERVICES["rollout"]
    module, (*command, word), options = job["entrypoint"][:2], job["entrypoint"][2:4], job["entrypoint"][4:]
    assert (["python", "-m"], ["microtome"], "rollout") == (module, command, word)
    told = build_parser().parse_args(["lite0", "2", *options])
    gateway = SERVICES["gateway"]["environment"]
    assert ([gateway["MICROTOME_MODEL_SERVER"]], gateway["MICROTOME_VERSION_LABEL"]) == (told.server, told.label)
    assert [f"http://gateway:{gateway['MICROTOME_PORT']}"] == told.gateway
    assert all("rollout" not in chosen(profile) for profile in MODEL_SERVERS)
    for server in MODEL_SERVERS.values():
        words = [*SERVICES[server]["command"]]
        assert f"--model_config_file={told.config}" in words
        assert [f"{volume}:ro" for volume in job["volumes"]] == [v for v in SERVICES[server]["volumes"] if "etc" in v]


def test_the_gateway_may_drain() -> None:
    """Docker's patience is longer than the drain."""
    gateway = SERVICES["gateway"]
    assert int(gateway["environment"]["MICROTOME_DRAIN"]) < int(gateway["stop_grace_period"].removesuffix("s"))


def test_the_model_server_is_reached_by_nobody_else() -> None:
    """It and Redis are on a network without a way out, and publish nothing; who is on it has work there."""
    inside = {name for name, service in SERVICES.items() if "inside" in _networks(service)}
    assert {"gateway", "prometheus", "redis", "rollout", *MODEL_SERVERS.values()} == inside
    assert compose()["networks"]["inside"]["internal"] is True
    for name in (*MODEL_SERVERS.values(), "redis"):
        assert ["inside"] == list(SERVICES[name]["networks"])
        assert "ports" not in SERVICES[name]


def test_alerts_are_sent_to_an_alertmanager_that_takes_its_configuration() -> None:
    """Prometheus names the service and its port; amtool finds nothing wrong; each severity has a receiver."""
    files = COMPOSE.parents[1]
    scraping = yaml.safe_load((files / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    (where,) = scraping["alerting"]["alertmanagers"]
    (target,) = where["static_configs"][0]["targets"]
    name, _, port = target.partition(":")
    assert [f"127.0.0.1:{port}:{port}"] == SERVICES[name]["ports"]
    assert set(_networks(SERVICES[name])) & set(_networks(SERVICES["prometheus"]))
    path = files / "alertmanager" / "alertmanager.yml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    names = {receiver["name"] for receiver in config["receivers"]}
    assert {config["route"]["receiver"], *(one["receiver"] for one in config["route"]["routes"])} == names
    told = {rule["alert"] for rule in alerts()}
    for inhibited in config["inhibit_rules"]:
        for matcher in (*inhibited["source_matchers"], *inhibited["target_matchers"]):
            label, _, value = matcher.partition("=")
            if label == "alertname":
                assert [one for one in told if re.fullmatch(value.strip('~"'), one)], matcher
    if amtool := shutil.which("amtool"):
        done = subprocess.run([amtool, "check-config", str(path)], capture_output=True, text=True, check=False)
        assert 0 == done.returncode, done.stdout + done.stderr
