"""Fit projections and find each dimension's int8 range on the calibration images."""

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from exporter.errors import ImpossibleProjection
from exporter.head.embedding import pooled_head
from exporter.head.projection import Fitted, check_dimensions, fit_pca, project, random_projection
from exporter.head.slicing import Slice, SliceOutput
from exporter.recipe.files import image_files
from exporter.recipe.images import read_pixels
from exporter.recipe.resolved import ModelRecipe, OutputRecipe
from exporter.runtime.terminal import counted
from exporter.savedmodel.freezing import freeze
from exporter.savedmodel.manifest import Calibrated
from microtome.machine import cores

LARGEST_QUANTIZED = 16_384
_MOST_BYTES = 4 << 30
_BATCH = 8

Array = np.ndarray[Any, Any]


def calibrate(recipe: ModelRecipe, slice_: Slice) -> Calibrated:
    """Fit the projections and ranges that the recipe's outputs need.

    Raises:
        ImpossibleProjection: More dimensions are wanted than images or features allow, or than fit into memory.
        CalibrationImageBroken: An image cannot be decoded.
    """
    projections: dict[str, Fitted] = {
        output.recipe.name: random_projection(output.recipe.name, output.pooled[0], output.recipe.projection)
        for output in slice_.outputs
        if output.recipe.projection is not None and output.recipe.projection.kind == "random"
    }
    wanting = tuple(output for output in slice_.outputs if output.recipe.needs_calibration)
    if not wanting or recipe.calibration is None:
        return Calibrated(projections)
    files = image_files(Path(recipe.calibration.folder), recipe.calibration.images)
    check_memory({output.recipe: output.pooled for output in wanting}, len(files))
    for output in wanting:
        check_output(output.recipe, output.pooled, len(files))
    vectors = _features(recipe.name, replace(slice_, outputs=wanting), files)
    ranges = {}
    for output in wanting:
        name, wanted = output.recipe.name, output.recipe.projection
        if wanted is not None and wanted.kind == "pca":
            projections[name] = fit_pca(name, vectors[name], wanted)
        if output.recipe.quantization == "int8":
            ranges[name] = _ranges(vectors[name], output, projections.get(name))
    return Calibrated(projections, ranges, len(files))


def check_output(output: OutputRecipe, pooled: tuple[int, ...], images: int) -> None:
    """Check that an output can be projected and quantized as the recipe says.

    Args:
        output: The output's recipe.
        pooled: Shape of one image's features, before projection.
        images: Number of calibration images.

    Raises:
        ImpossibleProjection: It cannot.
    """
    if output.projection is not None:
        check_dimensions(output.name, output.projection, pooled[0], images)
    size = output.projection.dim if output.projection is not None else math.prod(pooled)
    if output.quantization == "int8" and size > LARGEST_QUANTIZED:
        raise ImpossibleProjection(
            f"Expected at most {LARGEST_QUANTIZED} dimensions for quantization: int8 of the output {output.name}. "
            f"Received: {size}. Pool it, or project it with pca or random."
        )


def check_memory(pooled: Mapping[OutputRecipe, tuple[int, ...]], images: int) -> None:
    """Check that the features of all images fit into memory together.

    Args:
        pooled: Shape of one image's features, for each output that needs calibration.
        images: Number of calibration images.

    Raises:
        ImpossibleProjection: They do not fit.
    """
    needed = 4 * images * sum(math.prod(shape) for shape in pooled.values())
    if needed > _MOST_BYTES:
        raise ImpossibleProjection(
            f"Expected calibration features of at most {_MOST_BYTES >> 30} GB. Received: {needed / (1 << 30):.1f} GB "
            f"for {images} images. Use pooling: avg instead of flatten, or fewer images (calibration: {{images: N}})."
        )


def _ranges(vectors: Array, output: SliceOutput, fitted: Fitted | None) -> tuple[Array, Array]:
    final = vectors.astype(np.float64).reshape(len(vectors), -1)
    if fitted is not None:
        final = project(final, fitted)
    if output.recipe.normalize == "l2":
        final = final / np.maximum(np.linalg.norm(final, axis=1, keepdims=True), 1e-6)
    return final.min(axis=0).astype(np.float32), final.max(axis=0).astype(np.float32)


def _features(name: str, slice_: Slice, files: Sequence[Path]) -> dict[str, Array]:
    """Run the images through the slice, each batch on one core, so that the result is the same on any machine."""
    starts = range(0, len(files), _BATCH)
    found: dict[str, list[Array]] = {output.recipe.name: [] for output in slice_.outputs}
    with freeze(slice_, pooled_head).session(threads=1) as run, ThreadPoolExecutor(cores()) as pool:

        def run_batch(start: int) -> dict[str, Array]:
            return run(np.stack([read_pixels(path, slice_.pixels) for path in files[start : start + _BATCH]]))

        what = f"{name}: looking at the calibration images"
        for answers in counted(pool.map(run_batch, starts), len(starts), what):
            for output, vectors in answers.items():
                found[output].append(vectors)
    return {output: np.concatenate(parts) for output, parts in found.items()}
