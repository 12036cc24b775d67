"""Look at the calibration images: fit projections, and find each dimension's range for int8 answers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from exporter.attainable import want_attainable, want_memory
from exporter.calibration_folder import image_files
from exporter.freezing import FrozenGraph, freeze
from exporter.heads import pooled_head
from exporter.images import read_pixels
from exporter.preprocessing import Preprocessing
from exporter.progress import counted
from exporter.projection import Fitted, FittedPca, fit_pca, project, random_projection
from exporter.recipe import ModelRecipe
from exporter.sessions import lean
from exporter.slicing import Slice, SliceOutput

Array = np.ndarray[Any, Any]

_BATCH = 8


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What the calibration images told.

    Attributes:
        projections: By output name.
        ranges: Smallest and largest value of each dimension, float32 [d] each, by output name.
        images: How many images were looked at.
    """

    projections: Mapping[str, Fitted] = field(default_factory=dict)
    ranges: Mapping[str, tuple[Array, Array]] = field(default_factory=dict)
    images: int = 0


def calibrate(recipe: ModelRecipe, slice_: Slice) -> Calibrated:
    """Fit whatever the recipe's outputs need.

    Raises:
        ImpossibleProjection: More dimensions are wanted than images or features allow, or more than fits into memory.
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
    want_memory({output.recipe: output.pooled for output in wanting}, len(files))
    for output in wanting:
        want_attainable(output.recipe, output.pooled, len(files))
    vectors = _features(recipe.name, replace(slice_, outputs=wanting), files)
    ranges = {}
    for output in wanting:
        name, wanted = output.recipe.name, output.recipe.projection
        if wanted is not None and wanted.kind == "pca":
            projections[name] = fit_pca(name, vectors[name], wanted)
        if output.recipe.quantization == "int8":
            ranges[name] = _ranges(vectors[name], output, projections.get(name))
    return Calibrated(projections, ranges, len(files))


def described(output: SliceOutput, calibrated: Calibrated) -> dict[str, Any]:
    """Return what the manifest says about an output's projection and quantization."""
    name, wanted = output.recipe.name, output.recipe.projection
    projection: dict[str, Any] | None = None
    if wanted is not None:
        projection = {"kind": wanted.kind, "from": output.pooled[0], "dim": wanted.dim}
        fitted = calibrated.projections[name]
        if isinstance(fitted, FittedPca):
            projection |= {"whiten": wanted.whiten, "images": calibrated.images}
            projection["explained_variance"] = round(sum(fitted.explained), 6)
            projection["explained_variance_ratio"] = list(fitted.explained)
        else:
            projection["seed"] = wanted.seed
    quantization: dict[str, Any] | None = None
    if name in calibrated.ranges:
        low, high = calibrated.ranges[name]
        quantization = {"scheme": "int8", "min": low.tolist(), "max": high.tolist(), "images": calibrated.images}
    return {"projection": projection, "quantization": quantization}


def _ranges(vectors: Array, output: SliceOutput, fitted: Fitted | None) -> tuple[Array, Array]:
    final = vectors.astype(np.float64).reshape(len(vectors), -1)
    if fitted is not None:
        final = project(final, fitted)
    if output.recipe.normalize == "l2":
        final = final / np.maximum(np.linalg.norm(final, axis=1, keepdims=True), 1e-6)
    return final.min(axis=0).astype(np.float32), final.max(axis=0).astype(np.float32)


def _features(name: str, slice_: Slice, files: Sequence[Path]) -> dict[str, Array]:
    """Run the images through the slice; the same on any number of cores, because each batch keeps to one."""
    frozen = freeze(slice_, pooled_head)
    found: dict[str, list[Array]] = {output.recipe.name: [] for output in slice_.outputs}
    for answers in _batches(frozen, slice_.pixels, files, f"{name}: looking at the calibration images"):
        for output, vectors in answers.items():
            found[output].append(vectors)
    return {output: np.concatenate(parts) for output, parts in found.items()}


def _batches(
    frozen: FrozenGraph, pixels: Preprocessing, files: Sequence[Path], what: str
) -> Iterator[Mapping[str, Array]]:
    starts = range(0, len(files), _BATCH)
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(frozen.definition, name="")
        fetches = {output: f"{node}:0" for output, node in frozen.outputs.items()}
        with (
            tf.compat.v1.Session(graph=graph, config=lean(threads=1)) as session,
            ThreadPoolExecutor(os.cpu_count()) as pool,
        ):

            def run(start: int) -> Mapping[str, Array]:
                images = np.stack([read_pixels(path, pixels) for path in files[start : start + _BATCH]])
                answers: Mapping[str, Array] = session.run(fetches, {f"{frozen.input}:0": images})
                return answers

            yield from counted(pool.map(run, starts), len(starts), what)
