"""Verify a version in another process than the one that wrote it, for `microtome verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from exporter.errors import ImpossibleOption, NoVersion
from exporter.head.projection import Fitted, read_projections
from exporter.head.slicing import Slice, prepare
from exporter.recipe.files import file_digest, image_files
from exporter.recipe.resolved import ModelRecipe
from exporter.runtime.terminal import stage
from exporter.savedmodel.fingerprint import Ranges, fingerprint
from exporter.savedmodel.precision import frozen_graph
from exporter.savedmodel.publication import ASSETS
from exporter.savedmodel.versions import manifest_of, recipe_of
from exporter.verify.checks import Finding, expect
from exporter.verify.verification import verify

_MOST_IMAGES = 64


def verify_again(directory: Path, images: Path | None, sources: Path) -> list[Finding]:
    """Build a version's model again from its recipe and compare the two.

    Args:
        directory: The version.
        images: A folder of real images to compare on; None for the sample images alone.
        sources: The folder of the files that its recipe names.

    Raises:
        NoVersion: The version is damaged.
        ImpossibleOption: There are no images in the folder.
    """
    recipe = recipe_of(directory, sources)
    files = image_files(images, _MOST_IMAGES) if images is not None else []
    if images is not None and not files:
        raise ImpossibleOption(f"Expected a folder with images. Received: {images}, which has none.")
    changed = [path for path, before in recipe.files if not Path(path).is_file() or file_digest(Path(path)) != before]
    if changed:
        said = "Expected the files that this version was made from. Received: changed or gone: "
        said += f"{', '.join(changed)}. Give the recipe's folder as --sources."
        return [Finding("its sources are there", False, said)]
    try:
        projections = read_projections(directory / ASSETS)
    except (OSError, ValueError, KeyError) as error:
        raise NoVersion(f"Expected the projections of {directory}. Received: a damaged file: {error}.") from error
    told = (manifest_of(directory).get("precision") or {}).get("worst_cosine")
    slice_ = prepare(recipe)
    with stage(f"{recipe.name}: verifying against Keras"):
        findings = verify(directory, slice_, projections, worst_cosines=told, images=files)
        return [*findings, _check_fingerprint(directory, recipe, slice_, projections)]


def _check_fingerprint(directory: Path, recipe: ModelRecipe, slice_: Slice, projections: dict[str, Fitted]) -> Finding:
    """Check that freezing the recipe again gives the same fingerprint, on which cached vectors depend."""
    manifest = manifest_of(directory)
    ranges: dict[str, Ranges] = {
        output["name"]: (_range(output, "min"), _range(output, "max"))
        for output in manifest["outputs"]
        if output["quantization"]
    }
    again = fingerprint(frozen_graph(slice_, projections, recipe.precision), recipe.input, ranges)
    return expect(
        "built again, the fingerprint is the same",
        again == manifest["fingerprint"],
        again,
        f"Expected the fingerprint {manifest['fingerprint']}. Received: {again} when built again.",
    )


def _range(output: dict[str, Any], side: str) -> np.ndarray[Any, Any]:
    return np.array(output["quantization"][side], np.float32)
