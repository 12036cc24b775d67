"""Measure what a lower precision costs, and say it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from exporter.calibrating import Calibrated
from exporter.calibration_folder import image_files
from exporter.freezing import FrozenGraph
from exporter.progress import stage, warn
from exporter.recipe import ModelRecipe
from exporter.reference import reference
from exporter.sessions import lean
from exporter.slicing import Slice
from exporter.trial import cosines, with_images

_IMAGES = 16
_HARMLESS = 0.9999


@dataclass(frozen=True, slots=True)
class Cost:
    """Cosines between an output's vectors and those that float32 gives.

    Attributes:
        worst: The smallest; often that of a trial image without any structure, whose vector is little but rounding.
        median: What is usual.
    """

    worst: float
    median: float


def measure(recipe: ModelRecipe, frozen: FrozenGraph, slice_: Slice, calibrated: Calibrated) -> dict[str, Cost]:
    """Compare a graph with float32 Keras on the trial pixels and some of the calibration images; warn of what differs.

    Returns:
        By output name.
    """
    with stage(f"{recipe.name}: measuring {recipe.precision} against float32"):
        files = image_files(Path(recipe.calibration.folder), _IMAGES) if recipe.calibration else []
        pixels = with_images(recipe.input, files)
        with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph, config=lean()) as session:
            tf.import_graph_def(frozen.definition, name="")
            fetches = {name: f"{node}:0" for name, node in frozen.outputs.items()}
            actual = session.run(fetches, {f"{frozen.input}:0": pixels})
        expected = reference(slice_, pixels, calibrated.projections)
    found = {}
    for name, vectors in actual.items():
        each = cosines(vectors, expected[name])
        found[name] = Cost(round(float(each.min()), 7), round(float(np.median(each)), 7))
        if not found[name].worst >= _HARMLESS:
            warn(
                f"in {recipe.precision} the output {name} has a cosine of {found[name].median:.5f} with float32 "
                f"(median; worst {found[name].worst:.5f}). Measure your own task, or say precision: float32."
            )
    return found


def worst(costs: Mapping[str, Cost]) -> dict[str, float]:
    """Return the smallest cosines, by output name."""
    return {name: cost.worst for name, cost in costs.items()}
