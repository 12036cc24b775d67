"""Read a version's manifest and recipe, without TensorFlow."""

import json
from pathlib import Path
from typing import Any

from exporter.errors import NoVersion
from exporter.recipe.resolved import ModelRecipe
from exporter.savedmodel.publication import ASSETS, MANIFEST_FILE, RECIPE_FILE


def find_version(directory: Path) -> Path:
    """Return the directory if it holds a version.

    Raises:
        NoVersion: It does not.
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
    """Return the recipe that a version was made from.

    Args:
        directory: The version.
        sources: The recipe's folder, where the files that it names start.

    Raises:
        NoVersion: The recipe is missing, damaged, or of another release.
    """
    path = directory / ASSETS / RECIPE_FILE
    try:
        return ModelRecipe.from_canonical(path.read_text(encoding="utf-8"), sources)
    except (OSError, ValueError) as error:
        raise NoVersion(
            f"Expected the recipe of a version in {path}. Received: {error}. Export it again with this release."
        ) from error
