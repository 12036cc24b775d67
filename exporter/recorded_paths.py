"""Paths as a version records them: from the recipe's folder, so that a machine's own directories never enter.

What begins with `./` or `../` is such a path, so that `./ResNet50.keras` is not taken for a name.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from exporter.own_backbones import PRESET_PREFIX


def recorded(entry: dict[str, Any], folder: str) -> dict[str, Any]:
    """Return a recipe entry with every absolute path written from this folder."""
    return _translated(entry, lambda path: _from(path, folder) if folder and Path(path).is_absolute() else path)


def found_again(entry: dict[str, Any], folder: str) -> dict[str, Any]:
    """Return a recorded entry with its paths made absolute, starting at this folder."""
    return _translated(entry, lambda path: os.path.normpath(Path(folder, path)) if _is_recorded(path) else path)


def _translated(entry: dict[str, Any], translate: Callable[[str], str]) -> dict[str, Any]:
    def of_source(text: str) -> str:
        prefix = PRESET_PREFIX if text.startswith(PRESET_PREFIX) else ""
        return prefix + translate(text.removeprefix(prefix))

    calibration = entry["calibration"]
    return {
        **entry,
        "backbone": of_source(entry["backbone"]),
        "weights": of_source(entry["weights"]),
        "calibration": calibration and {**calibration, "folder": translate(calibration["folder"])},
        "files": [[translate(path), digest] for path, digest in entry["files"]],
    }


def _from(path: str, folder: str) -> str:
    relative = os.path.relpath(path, folder)
    return relative if relative.startswith("../") else f"./{relative}"


def _is_recorded(path: str) -> bool:
    return path.startswith(("./", "../"))
