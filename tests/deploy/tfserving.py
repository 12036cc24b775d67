"""TensorFlow Serving's command lines and files, wherever under deploy/ they stand."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.manifests import OVERLAYS, combinations, container, containers, render, workloads
from tests.exported_models import REPOSITORY

FILES = REPOSITORY / "deploy" / "tfserving"
MOUNTED = "/etc/tfserving/"
COMPOSE = REPOSITORY / "deploy" / "compose" / "compose.yaml"


def compose() -> dict[str, Any]:
    """The compose file, its anchors and merges resolved."""
    document: dict[str, Any] = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    return document


def command_lines() -> dict[str, list[str]]:
    """Arguments by the place where they stand, for every model server that is TensorFlow Serving."""
    lines = {
        "+".join(chosen): container(render(chosen), "model-server")["args"]
        for overlay in OVERLAYS
        for chosen in ((overlay,), (overlay, "gpu"), (overlay, "object-store"))
    }
    services = compose()["services"]
    return lines | {name: services[name]["command"] for name in ("tfserving-cpu", "tfserving-gpu")}


def embedded_command_lines() -> dict[str, list[str]]:
    """The same for our own model server."""
    lines = {overlay: container(render((overlay, "embedded")), "model-server")["args"] for overlay in OVERLAYS}
    return lines | {"compose": compose()["services"]["modelserver"]["command"]}


def gpu_environments() -> dict[str, dict[str, str]]:
    """Return the environment of every container under deploy/ that runs TensorFlow Serving on a GPU."""
    found = {}
    pairs = [(overlay, "gpu") for overlay in OVERLAYS]
    for combination in {*pairs, *(chosen for chosen in combinations() if "gpu" in chosen)}:
        for workload in workloads(render(combination)):
            for one in containers(workload):
                if "nvidia.com/gpu" in one["resources"].get("limits", {}) or _is_gpu_server(one):
                    found["+".join(combination)] = {entry["name"]: entry["value"] for entry in one.get("env", [])}
    for name, service in compose()["services"].items():
        serves = service["image"].endswith("-gpu") and "tensorflow_model_server" in str(service.get("entrypoint"))
        if serves or "devices" in str(service.get("deploy")):
            found[name] = service.get("environment", {})
    return dict(sorted(found.items()))


def _is_gpu_server(one: Mapping[str, Any]) -> bool:
    """Whether a container runs the server of a GPU image, and not a shell of it as the init container does."""
    return one["image"].endswith("-gpu") and "tensorflow_model_server" in " ".join(one.get("command", []))


def local_file(argument: str) -> Path | None:
    """The file of ours that an argument names, if it names one."""
    value = argument.partition("=")[2]
    return FILES / value.removeprefix(MOUNTED) if value.startswith(MOUNTED) else None
