"""TensorFlow Serving's command lines and files, wherever under deploy/ they stand."""

from pathlib import Path
from typing import Any

import yaml

from tests.deploy.manifests import OVERLAYS, container, render
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


def local_file(argument: str) -> Path | None:
    """The file of ours that an argument names, if it names one."""
    value = argument.partition("=")[2]
    return FILES / value.removeprefix(MOUNTED) if value.startswith(MOUNTED) else None
