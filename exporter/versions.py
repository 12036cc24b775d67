"""Read what lies beside a written version, without TensorFlow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from exporter.errors import ImpossibleOption, NoVersion
from exporter.publication import ASSETS, MANIFEST_FILE, RECIPE_FILE
from exporter.recipe import ModelRecipe


def find_version(directory: Path) -> Path:
    """Return the directory if it is a version.

    Raises:
        NoVersion: It is not.
    """
    if not (directory / "saved_model.pb").is_file() or not (directory / ASSETS / MANIFEST_FILE).is_file():
        raise NoVersion(
            f"Expected the directory of a version, such as models/lite0/1. Received: {directory}, which has no "
            f"saved_model.pb with {ASSETS}/{MANIFEST_FILE}."
        )
    return directory


def manifest_of(directory: Path) -> dict[str, Any]:
    """Return a version's manifest.

    Raises:
        NoVersion: It is damaged.
    """
    try:
        found: dict[str, Any] = json.loads((directory / ASSETS / MANIFEST_FILE).read_bytes())
    except ValueError as error:
        raise NoVersion(f"Expected JSON in {directory / ASSETS / MANIFEST_FILE}. Received: {error}.") from error
    return found


def recipe_of(directory: Path, sources: Path) -> ModelRecipe:
    """Return the recipe entry that a version was made from.

    Args:
        directory: The version.
        sources: Where the files that the recipe names start: the recipe's own folder.

    Raises:
        NoVersion: It is damaged, or of another release.
    """
    path = directory / ASSETS / RECIPE_FILE
    try:
        return ModelRecipe.from_canonical(path.read_text(encoding="utf-8"), sources)
    except (OSError, ValueError) as error:
        raise NoVersion(
            f"Expected the recipe of a version in {path}. Received: {error}. Export it anew with this release."
        ) from error


def batch_sizes_of(text: str) -> list[int]:
    """Read batch sizes such as `1,8`.

    Raises:
        ImpossibleOption: They are not whole numbers of at least 1.
    """
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise ImpossibleOption(f"Expected batch sizes such as 1,8. Received: {text!r}.")
    return [int(part) for part in parts]
