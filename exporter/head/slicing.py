"""Build a recipe's backbone and cut it at the layers that the recipe names."""

import math
from dataclasses import dataclass, replace
from typing import cast

import keras

from exporter.errors import CutError
from exporter.graph.cost import count_flops, count_params
from exporter.graph.tensors import find_tensor
from exporter.head.dense import DenseHead, read_head
from exporter.head.pooling import pooled_output_shape
from exporter.models.building import Built, build
from exporter.recipe.backbones import Scaling, find_backbone
from exporter.recipe.resolved import ModelRecipe, OutputRecipe
from exporter.runtime.memory import available, estimated
from exporter.runtime.terminal import stage, warn
from microtome.manifest import InputSpec

MOST_DIMENSIONS = 16_384
"""Longer vectors are allowed, with a warning."""


@dataclass(frozen=True, slots=True)
class SliceOutput:
    """One output of a slice.

    Attributes:
        recipe: The output's recipe.
        layer_shapes: Shapes of the layers' tensors, batch first.
        pooled: Shape of one image's features after pooling, before projection.
        params: Weights that this output needs.
        flops: Operations that this output needs for one image; None if unknown.
        head: Trained layers on the embedding, if the recipe names some.
    """

    recipe: OutputRecipe
    layer_shapes: tuple[tuple[int | None, ...], ...]
    pooled: tuple[int, ...]
    params: int
    flops: int | None
    head: DenseHead | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image's answer: its embedding, or its logits."""
        if self.head is not None:
            return (self.head.classes,)
        return (self.recipe.projection.dim,) if self.recipe.projection else self.pooled


@dataclass(frozen=True, slots=True)
class Slice:
    """A backbone up to its deepest cut.

    Attributes:
        built: The whole backbone.
        model: From the backbone's input to the cut layers' tensors by layer, before pooling.
        outputs: In the order of the recipe.
        pixels: The preprocessing of its images.
    """

    built: Built
    model: keras.Model
    outputs: tuple[SliceOutput, ...]
    pixels: InputSpec


def prepare(recipe: ModelRecipe) -> Slice:
    """Build the backbone of a recipe and cut it.

    Raises:
        ExporterError: It cannot be built or cut as the recipe says.
    """
    keras.utils.clear_session()  # frees the model before this one
    row = find_backbone(recipe.backbone)
    if recipe.scaling is not None:
        row = replace(row, scaling=cast("Scaling", recipe.scaling))
    with stage(f"{recipe.name}: building {recipe.backbone} with {recipe.weights} weights"):
        return cut(build(row, recipe.weights, recipe.input, include_top=recipe.include_top), recipe)


def cut(built: Built, recipe: ModelRecipe) -> Slice:
    """Cut a backbone at the layers of a recipe.

    Raises:
        CutError: A layer is unknown or ambiguous, or cannot be pooled as the recipe says; names every such problem.
    """
    tensors: dict[str, keras.KerasTensor] = {}
    outputs, errors = [], []
    for output in recipe.outputs:
        try:
            found, shapes, pooled = find_output(built.model, output)
        except CutError as error:
            errors.append(error)
            continue
        alone = keras.Model(built.model.input, found)
        tensors |= dict(zip(output.layers, found, strict=True))
        outputs.append(SliceOutput(output, shapes, pooled, count_params(alone), count_flops(alone)))
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise CutError("\n".join(dict.fromkeys(str(error) for error in errors)))
    return Slice(built, keras.Model(built.model.input, tensors), tuple(outputs), recipe.input)


def find_output(
    model: keras.Model, output: OutputRecipe
) -> tuple[list[keras.KerasTensor], tuple[tuple[int | None, ...], ...], tuple[int, ...]]:
    """Return the tensors of an output's layers, their shapes, and the shape of one image's features after pooling.

    Raises:
        CutError: A layer is unknown or ambiguous, or cannot be pooled as the recipe says.
    """
    found = [find_tensor(model, layer) for layer in output.layers]
    shapes = tuple(tuple(tensor.shape) for tensor in found)
    return found, shapes, pooled_output_shape(output, shapes)


def warn_of_long_vectors(slice_: Slice) -> None:
    """Warn of outputs that are too long to store and compare, with shorter alternatives."""
    for output in slice_.outputs:
        size = math.prod(output.shape)
        if size > MOST_DIMENSIONS and output.recipe.pooling != "none":
            warn(
                f"the output {output.recipe.name} has {size:,} dimensions: {4 * size / 1e6:.1f} MB for every image. "
                "Say pooling: avg (or gem, or max), cut deeper, or add projection: {pca: 256}."
            )


def warn_of_memory(slice_: Slice) -> None:
    """Warn if the machine has less memory available than the export takes at least."""
    needed = estimated(count_params(slice_.built.model), count_params(slice_.model))
    free = available()
    if free is not None and free < needed:
        warn(
            f"exporting {slice_.built.row.name} takes {needed / 1e9:.1f} GB of memory or more, where "
            f"{free / 1e9:.1f} GB can be had: the system may end it. Close what you can, or export "
            "on a larger machine."
        )
