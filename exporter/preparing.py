"""From a recipe entry to the cut backbone: what exporting and verifying have in common."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import keras

from exporter.backbones import Scaling, find_backbone
from exporter.building import build
from exporter.cost import count_params
from exporter.memory import available, foreseen
from exporter.progress import stage, warn
from exporter.recipe import ModelRecipe
from exporter.slicing import Slice, cut

MOST_DIMENSIONS = 16_384
"""Longer vectors are allowed, but hardly ever meant."""


def prepare(recipe: ModelRecipe) -> Slice:
    """Build the backbone and cut it.

    Raises:
        ExporterError: It cannot be built or cut as asked.
    """
    keras.utils.clear_session()  # the model before this one must not stay in memory
    row = find_backbone(recipe.backbone)
    if recipe.scaling is not None:
        row = replace(row, scaling=cast("Scaling", recipe.scaling))
    with stage(f"{recipe.name}: building {recipe.backbone} with {recipe.weights} weights"):
        return cut(build(row, recipe.weights, recipe.input, include_top=recipe.include_top), recipe)


def warn_of_long_vectors(slice_: Slice) -> None:
    """Say which outputs are longer than anybody can want to store and compare, and what to do instead."""
    for output in slice_.outputs:
        size = 1
        for side in output.shape:
            size *= side
        if size > MOST_DIMENSIONS and output.recipe.pooling != "none":
            warn(
                f"the output {output.recipe.name} has {size:,} dimensions: {4 * size / 1e6:.1f} MB for every image. "
                "Say pooling: avg (or gem, or max), cut deeper, or add projection: {pca: 256}."
            )


def warn_of_memory(slice_: Slice) -> None:
    """Say when the machine has less memory than the weights alone will take, before they take it."""
    needed = foreseen(count_params(slice_.built.model), count_params(slice_.model))
    there = available()
    if there is not None and there < needed:
        warn(
            f"exporting {slice_.built.row.name} takes {needed / 1e9:.1f} GB of memory or more, where "
            f"{there / 1e9:.1f} GB can be had: the system may end it. Close what you can, or export "
            "on a larger machine."
        )
