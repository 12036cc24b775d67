"""The picture of the deployment, docs/deployment.svg, says what the network policies say."""

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from typing import Any

import yaml

from tests.exported_models import REPOSITORY

KUBERNETES = REPOSITORY / "deploy" / "kubernetes"
NAME = "app.kubernetes.io/name"
SVG = "{http://www.w3.org/2000/svg}"

Ways = dict[tuple[str, str], str]
"""Which kind of process may connect to which, and at which ports."""


def resources(*names: str) -> Iterator[dict[str, Any]]:
    """Read manifests."""
    for name in names:
        yield from yaml.safe_load_all((KUBERNETES / name).read_text(encoding="utf-8"))


def opened() -> Ways:
    """Read from the policies what is open, with the numbers of the deployments' ports."""
    numbers = {
        (resource["metadata"]["name"], port["name"]): port["containerPort"]
        for resource in resources("base/gateway.yaml", "base/model-server.yaml", "base/redis.yaml")
        if resource["kind"] == "Deployment"
        for container in resource["spec"]["template"]["spec"]["containers"]
        for port in container.get("ports", ())
    }
    found = {}
    for policy in resources("base/network.yaml", "components/monitoring/network.yaml"):
        target = policy["spec"]["podSelector"].get("matchLabels", {}).get(NAME)
        for rule in policy["spec"].get("ingress", ()):
            ports = ", ".join(f"{port['port']} {numbers[target, port['port']]}" for port in rule["ports"])
            for peer in rule["from"]:
                source = peer.get("podSelector", {}).get("matchLabels", {}).get(NAME, "callers")
                found[source, target] = ports
    return found


def drawn() -> Ways:
    """Read the arrows of the picture: groups with an id such as `gateway-to-redis`, and the ports as a text."""
    groups = ET.parse(REPOSITORY / "docs" / "deployment.svg").getroot().findall(f"{SVG}g")
    assert all(group.find(f"{SVG}path") is not None for group in groups)
    found = {}
    for group in groups:
        source, target = group.attrib["id"].split("-to-")
        found[source, target] = group.findtext(f"{SVG}text") or ""
    return found


def test_the_picture_has_an_arrow_for_each_way_that_is_open() -> None:
    """With its ports, and no arrow more. A policy that changes wants another picture."""
    assert opened() == drawn()


def test_only_these_ways_are_open() -> None:
    """TensorFlow Serving has no authentication: only gateways may call it, and only Prometheus may read its metrics."""
    assert {
        ("callers", "gateway"): "http 8000, grpc 8001",
        ("prometheus", "gateway"): "metrics 8002",
        ("gateway", "model-server"): "grpc 8500",
        ("prometheus", "model-server"): "rest 8501",
        ("gateway", "redis"): "redis 6379",
    } == opened()


def test_what_gateways_may_reach_lets_them_in() -> None:
    """A way is open at both of its ends."""
    (gateway,) = [each["spec"] for each in resources("base/network.yaml") if each["metadata"]["name"] == "gateway"]
    reached = {peer["podSelector"]["matchLabels"][NAME] for rule in gateway["egress"] for peer in rule["to"]}
    assert {target for source, target in opened() if source == "gateway"} == reached
