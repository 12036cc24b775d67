"""What the manifests say of each container, with the few words replaced that only hold within a cluster.

REPLACED, addresses and paths are all that differs between what is run here and what `kubectl apply` would run. Every
pod has a loopback address of its own, so that ports are the stated ones.
"""

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.deploy.manifests import Manifest, container, find, render
from tests.exported_models import REPOSITORY

Manifests = tuple[Manifest, ...]
MANIFESTS = render(("production", "embedded", "managed-redis"))
CONFIGURATION = "/etc/tfserving"
MODELS = "/models"

REPLACED = {
    # Programs of an image: those of this environment.
    "python": sys.executable,
    # How often configuration and models are looked at: so that rollouts take seconds.
    "--model_config_file_poll_wait_seconds=30": "--model_config_file_poll_wait_seconds=1",
    "--file_system_poll_wait_seconds=10": "--file_system_poll_wait_seconds=1",
}


@dataclass(frozen=True, slots=True)
class Stated:
    """A container as it is stated; `words` and `environment` still have the cluster's addresses and paths in them.

    Attributes:
        ready: the readiness probe.
        pause: seconds of its preStop hook, a sleep.
    """

    words: tuple[str, ...]
    environment: Mapping[str, str]
    ports: Mapping[str, int]
    ready: Mapping[str, object]
    pause: float
    replicas: int

    def started(self, places: Mapping[str, str]) -> list[str]:
        """The command line, with REPLACED and places in it."""
        return [_placed(REPLACED.get(word, word), places) for word in self.words]

    def surrounded(self, places: Mapping[str, str]) -> dict[str, str]:
        """The environment, with places in it."""
        return {name: _placed(value, places) for name, value in self.environment.items()}


def stated(name: str, secrets: Mapping[str, str], manifests: Manifests = MANIFESTS) -> Stated:
    """Read a deployment's container: its command or its image's, its environment, ports and readiness.

    Args:
        name: of the deployment.
        secrets: what Secrets hold, by `name/key`.
        manifests: those that have it.
    """
    box = container(manifests, name)
    entry, environment = _image(name)
    for source in box.get("envFrom", []):
        environment |= find(manifests, "ConfigMap", source["configMapRef"]["name"])["data"]
    for variable in box.get("env", []):
        secret = variable["valueFrom"]["secretKeyRef"]
        environment[variable["name"]] = secrets[f"{secret['name']}/{secret['key']}"]
    return Stated(
        words=(*box.get("command", entry), *box.get("args", ())),
        environment=environment,
        ports={port["name"]: port["containerPort"] for port in box["ports"]},
        ready=box["readinessProbe"],
        pause=float(box["lifecycle"]["preStop"]["exec"]["command"][1]),
        replicas=find(manifests, "Deployment", name)["spec"]["replicas"],
    )


def write_configuration(directory: Path, models: Path, manifests: Manifests = MANIFESTS) -> None:
    """Write the ConfigMaps that model servers have mounted, as files."""
    volumes: list[Manifest] = find(manifests, "Deployment", "model-server")["spec"]["template"]["spec"]["volumes"]
    (sources,) = [volume["projected"]["sources"] for volume in volumes if volume["name"] == "tfserving"]
    for source in sources:
        for name, text in find(manifests, "ConfigMap", source["configMap"]["name"]).get("data", {}).items():
            (directory / name).write_text(_placed(text, {f'"{MODELS}/': f'"{models}/'}), encoding="utf-8")


def _image(name: str) -> tuple[list[str], dict[str, str]]:
    """The entry point and the gateway's own variables, by the Dockerfile's stage of that name."""
    dockerfile = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
    stage = re.split(r"^FROM .* AS (\S+)$", dockerfile, flags=re.MULTILINE)
    text = dict(zip(stage[1::2], stage[2::2], strict=True)).get(name, "")
    (entry,) = re.findall(r"^ENTRYPOINT (.*)$", text, flags=re.MULTILINE) or ["[]"]
    return json.loads(entry), dict(re.findall(r"\b(MICROTOME_\w+)=(\S+)", text))


def _placed(text: str, places: Mapping[str, str]) -> str:
    for stands, found in places.items():
        text = text.replace(stands, found)
    return text
