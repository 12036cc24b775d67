"""What the API server would refuse, or silently drop, shows here: every manifest keeps to its schema, strictly."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.deploy.manifests import Combination, Manifest, combinations, render

VERSIONS = ("1.30", "1.37")
"""The oldest Kubernetes that we say works, and the newest whose schemas there are."""

CUSTOM = {
    "Gateway": "gateway.networking.k8s.io_gateways.yaml",
    "GRPCRoute": "gateway.networking.k8s.io_grpcroutes.yaml",
    "HTTPRoute": "gateway.networking.k8s.io_httproutes.yaml",
    "ScaledObject": "keda.sh_scaledobjects.yaml",
    "ServiceMonitor": "monitoring.coreos.com_servicemonitors.yaml",
    "PrometheusRule": "monitoring.coreos.com_prometheusrules.yaml",
}
CLUSTER_WIDE = {"Namespace"}
seen: set[tuple[str, str]] = set()


def every(name: str) -> pytest.MarkDecorator:
    """One test for each combination."""
    return pytest.mark.parametrize(name, combinations(), ids="+".join)


def unseen(manifests: tuple[Manifest, ...], purpose: str) -> list[Manifest]:
    """Those that no earlier combination had: most are in all of them."""
    fresh = []
    for manifest in manifests:
        if (purpose, text := json.dumps(manifest, sort_keys=True)) not in seen:
            seen.add((purpose, text))
            fresh.append(manifest)
    return fresh


def strict(schema: Any) -> Any:
    """Forbid what a custom resource's schema does not name, where it does not say that anything goes."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    tightened = {key: strict(value) for key, value in schema.items()}
    if isinstance(pattern := schema.get("pattern"), str):
        tightened["pattern"] = pattern.replace("^(?i)", "(?i)^")  # as Python wants it; Go takes both
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        tightened.setdefault("additionalProperties", False)
    return tightened


@every("combination")
def test_manifests_keep_to_the_schemas_of_kubernetes(combination: Combination) -> None:
    """No field is misspelt, misplaced or of a wrong type, in the oldest and in the newest version."""
    for manifest in unseen(render(combination), "kubernetes"):
        if manifest["kind"] not in CUSTOM:
            for version in VERSIONS:
                kubernetes_validate.validate(dict(manifest), version, strict=True)


@pytest.mark.parametrize("kind", CUSTOM)
def test_custom_resources_keep_to_their_definitions(kind: str, shared_data: Callable[[str], Path]) -> None:
    """Those of KEDA, the Gateway API and the Prometheus operator; each kind is in some combination."""
    definition = yaml.safe_load((shared_data("crds") / CUSTOM[kind]).read_text(encoding="utf-8"))
    schemas = {v["name"]: v["schema"]["openAPIV3Schema"] for v in definition["spec"]["versions"]}
    found = [m for c in combinations() for m in unseen(render(c), kind) if m["kind"] == kind]
    assert found
    for manifest in found:
        schema = strict(schemas[manifest["apiVersion"].split("/")[1]])
        schema["properties"] |= {"metadata": {"type": "object"}}
        jsonschema.validate(manifest, schema)


@every("combination")
def test_everything_is_in_the_one_namespace(combination: Combination) -> None:
    """Nothing lands in whatever namespace the caller's kubectl has at the moment."""
    astray = [
        (m["kind"], m["metadata"]["name"])
        for m in render(combination)
        if m["kind"] not in CLUSTER_WIDE and m["metadata"].get("namespace") != "microtome"
    ]
    assert [] == astray


def test_a_misspelt_field_would_be_found() -> None:
    """The schemas really are strict: a field that does not exist is refused."""
    wrong = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"clusterIp": "None"}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[0], strict=True)
