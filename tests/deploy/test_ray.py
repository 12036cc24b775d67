"""KubeRay's resources under deploy/ray: by their definitions, strictly, and by the command that they run."""

import re
import shlex
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from microtome import __version__
from microtome.commands.embed.command import read
from tests.deploy.test_kubernetes_schemas import VERSIONS, strict
from tests.deploy.tools import tool

CUSTOM = {"RayCluster": "ray.io_rayclusters.yaml", "RayJob": "ray.io_rayjobs.yaml"}


@pytest.fixture(scope="module")
def manifests(repository: Path) -> list[dict[str, Any]]:
    """All resources of the folder."""
    paths = sorted((repository / "deploy" / "ray").glob("*.yaml"))
    return [one for path in paths for one in yaml.safe_load_all(path.read_text(encoding="utf-8"))]


@pytest.fixture(scope="module")
def custom(manifests: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Those of KubeRay, by kind."""
    return {one["kind"]: one for one in manifests if one["kind"] in CUSTOM}


@pytest.mark.parametrize("kind", CUSTOM)
def test_resources_keep_to_their_definitions(
    kind: str, custom: Mapping[str, Any], shared_data: Callable[[str], Path]
) -> None:
    """No field is misspelt, misplaced or of a wrong type; a misspelt one would be found."""
    # The C loader, since the definitions have two megabytes.
    definition = yaml.load((shared_data("crds") / CUSTOM[kind]).read_bytes(), yaml.CSafeLoader)
    (schema,) = [v["schema"]["openAPIV3Schema"] for v in definition["spec"]["versions"] if v["name"] == "v1"]
    schema = strict(schema)
    schema["properties"] |= {"metadata": {"type": "object"}}
    jsonschema.validate(custom[kind], schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**custom[kind], "spec": {**custom[kind]["spec"], "rayVersoin": "2"}}, schema)


def test_the_rest_keeps_to_the_schemas_of_kubernetes(manifests: list[dict[str, Any]]) -> None:
    """Pods too, whose schema in the definitions is of one version only."""
    for one in manifests:
        if one["kind"] in CUSTOM:
            continue
        for version in VERSIONS:
            kubernetes_validate.validate(one, version, strict=True)


def test_pods_are_locked_as_all_others(custom: Mapping[str, Any]) -> None:
    """No root, no capabilities, no token; the job's cluster is the one that stays."""
    spec = custom["RayCluster"]["spec"]
    assert spec == custom["RayJob"]["spec"]["rayClusterSpec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        kubernetes_validate.validate(
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": pod}, VERSIONS[0], strict=True
        )
        assert pod["securityContext"]["runAsNonRoot"]
        assert not pod["automountServiceAccountToken"]
        (container,) = pod["containers"]
        assert {"drop": ["ALL"]} == container["securityContext"]["capabilities"]
        assert not container["securityContext"]["allowPrivilegeEscalation"]
        assert container["resources"]["limits"]["memory"]
        assert {"memory", "cpu"} <= container["resources"]["requests"].keys()


def test_the_job_runs_a_command_that_there_is(custom: Mapping[str, Any]) -> None:
    """Its words are read by the command itself."""
    words, _, rest = custom["RayJob"]["spec"]["entrypoint"].partition(" || ")
    program, command, *given = shlex.split(words)
    assert ("microtome", "embed", "test $? -eq 3") == (program, command, rest)
    options = read(given)
    assert ("ray", "s3://vectors/2026-lite0") == (options.engine, options.out)


def test_versions_are_those_of_the_packages(repository: Path, custom: Mapping[str, Any]) -> None:
    """Ray's is the locked one everywhere, and the image's that of this repository."""
    (locked,) = set(re.findall(r"^ray==(\S+)", _text(repository, "requirements/ray.txt"), re.MULTILINE))
    assert locked == custom["RayCluster"]["spec"]["rayVersion"]
    (tested,) = set(re.findall(r"^ray==(\S+)", _text(repository, "requirements/clients.txt"), re.MULTILINE))
    assert tested == locked
    places = ("deploy/ray/Dockerfile", "deploy/ray/cluster.yaml", "docs/guides/ray.md")
    told = {one for place in places for one in re.findall(r"microtome/\w+:(\d+\.\d+\.\d+)", _text(repository, place))}
    assert {__version__} == told


def test_the_linter_finds_nothing(repository: Path) -> None:
    """Hadolint's rules hold for the image of Ray."""
    dockerfile = repository / "deploy" / "ray" / "Dockerfile"
    done = subprocess.run([tool("hadolint"), dockerfile], capture_output=True, text=True, check=False)
    assert (0, "") == (done.returncode, done.stdout)


def _text(repository: Path, name: str) -> str:
    return (repository / name).read_text(encoding="utf-8")
