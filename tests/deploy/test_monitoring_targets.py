"""Prometheus is sent to names and ports that compose and cluster really have."""

from typing import Any

import pytest
import yaml

from tests.exported_models import REPOSITORY

DEPLOY = REPOSITORY / "deploy"


def documents(*names: str) -> list[dict[str, Any]]:
    """All resources of some files."""
    texts = [(DEPLOY / "kubernetes" / name).read_text(encoding="utf-8") for name in names]
    return [document for text in texts for document in yaml.safe_load_all(text)]


MONITORS = documents("components/monitoring/service-monitors.yaml")


def test_compose_has_the_names_that_are_scraped() -> None:
    """A name is a service's or an alias, since TensorFlow Serving and the embedded server stand in for each other."""
    services = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text(encoding="utf-8"))["services"]
    networks = [n for s in services.values() if isinstance(s.get("networks"), dict) for n in s["networks"].values()]
    names = set(services) | {alias for network in networks if network for alias in network.get("aliases", [])}
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    scraped = {n for job in config["scrape_configs"] for sd in job.get("dns_sd_configs", []) for n in sd["names"]}
    assert {"gateway", "model-server"} == scraped
    assert scraped <= names


@pytest.mark.parametrize("monitor", MONITORS, ids=lambda monitor: monitor["metadata"]["name"])
def test_every_monitor_finds_a_service_with_its_port(monitor: dict[str, Any]) -> None:
    """The labels choose exactly one Service of the base, and it has a port of that name."""
    services = [r for r in documents("base/gateway.yaml", "base/model-server.yaml") if r["kind"] == "Service"]
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    (chosen,) = [service for service in services if wanted <= service["metadata"].get("labels", {}).items()]
    ports = {port["name"] for port in chosen["spec"]["ports"]}
    assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} <= ports


@pytest.mark.parametrize("name", ["gateway", "model-server"])
def test_prometheus_is_let_through(name: str) -> None:
    """A policy opens the port that is scraped, which the base's policies leave shut, of the pods that they shut."""
    policies = {p["metadata"]["name"]: p["spec"] for p in documents("components/monitoring/network.yaml")}
    base = {p["metadata"]["name"]: p["spec"] for p in documents("base/network.yaml")}
    policy, shut = policies[f"prometheus-to-{name}"], base[name]
    assert policy["podSelector"] == shut["podSelector"]
    (ports,) = [rule["ports"] for rule in policy["ingress"]]
    (scraped,) = [m["spec"]["endpoints"][0]["port"] for m in MONITORS if m["metadata"]["name"] == name]
    assert [{"port": scraped}] == ports
    assert [] == [rule for rule in shut["ingress"] if {"port": scraped} in rule["ports"]]


def test_compose_is_scraped_where_the_gateway_has_its_metrics() -> None:
    """The port in prometheus.yml is the one that compose sets."""
    services = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text(encoding="utf-8"))["services"]
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    lookups = [sd for job in config["scrape_configs"] for sd in job.get("dns_sd_configs", [])]
    (port,) = [sd["port"] for sd in lookups if sd["names"] == ["gateway"]]
    assert services["gateway"]["environment"]["MICROTOME_OPERATIONS_PORT"] == str(port)
