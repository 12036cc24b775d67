"""Verify a version long after it was written, in a process that has not written it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from exporter.calibration_folder import image_files
from exporter.errors import ImpossibleOption, NoVersion
from exporter.findings import Finding, expect
from exporter.fingerprint import Ranges, fingerprint
from exporter.pipeline import frozen_graph
from exporter.preparing import prepare
from exporter.progress import stage
from exporter.projection import Fitted
from exporter.projections_file import read_projections
from exporter.publication import ASSETS
from exporter.recipe import ModelRecipe
from exporter.recipe_sources import digest
from exporter.slicing import Slice
from exporter.verification import verify
from exporter.versions import manifest_of, recipe_of

_MOST_IMAGES = 64


def verify_again(directory: Path, images: Path | None, sources: Path) -> list[Finding]:
    """Build a version's model again from its recipe and compare.

    Args:
        directory: The version.
        images: A folder of real images to compare on; None for the trial pixels alone.
        sources: Where the files that its recipe names start.

    Raises:
        NoVersion: The version is damaged.
        ImpossibleOption: There are no images in the folder.
    """
    recipe = recipe_of(directory, sources)
    files = image_files(images, _MOST_IMAGES) if images is not None else []
    if images is not None and not files:
        raise ImpossibleOption(f"Expected a folder with images. Received: {images}, which has none.")
    changed = [path for path, before in recipe.files if not Path(path).is_file() or digest(Path(path)) != before]
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
    """Freezing the same recipe again must give the same fingerprint, or cached vectors mean nothing."""
    manifest = manifest_of(directory)
    ranges: dict[str, Ranges] = {
        output["name"]: (_range(output, "min"), _range(output, "max"))
        for output in manifest["outputs"]
        if output["quantization"]
    }
    again = fingerprint(frozen_graph(slice_, projections, recipe.precision), recipe.input, ranges)
    return expect(
        "built anew, the fingerprint is the same",
        again == manifest["fingerprint"],
        again,
        f"Expected the fingerprint {manifest['fingerprint']}. Received: {again} when built anew.",
    )


def _range(output: dict[str, Any], side: str) -> np.ndarray[Any, Any]:
    return np.array(output["quantization"][side], np.float32)
