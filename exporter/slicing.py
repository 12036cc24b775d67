"""Cut a built backbone at the layers that a recipe names."""

from __future__ import annotations

from dataclasses import dataclass

import keras

from exporter.building import Built
from exporter.cost import count_flops, count_params
from exporter.embedding import pooled_output_shape
from exporter.errors import CutError
from exporter.preprocessing import Preprocessing
from exporter.recipe import ModelRecipe, OutputRecipe
from exporter.tensors import find_tensor


@dataclass(frozen=True, slots=True)
class SliceOutput:
    """One output of a slice, with its facts.

    Attributes:
        recipe: Name, layers, pooling and what follows it.
        layer_shapes: Of the layers' tensors, batch first.
        pooled: Shape of one image's features, pooled and not yet projected.
        params: Weights that this output needs.
        flops: Operations for one image that this output needs; None when not known.
    """

    recipe: OutputRecipe
    layer_shapes: tuple[tuple[int | None, ...], ...]
    pooled: tuple[int, ...]
    params: int
    flops: int | None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image's embedding."""
        return (self.recipe.projection.dim,) if self.recipe.projection else self.pooled


@dataclass(frozen=True, slots=True)
class Slice:
    """A backbone up to its deepest cut.

    Attributes:
        built: The whole backbone.
        model: Takes what the backbone takes, gives the cut layers' tensors by layer, not yet pooled.
        outputs: In the order of the recipe.
        pixels: What the model takes.
    """

    built: Built
    model: keras.Model
    outputs: tuple[SliceOutput, ...]
    pixels: Preprocessing


def cut(built: Built, recipe: ModelRecipe) -> Slice:
    """Cut a backbone at the layers of a recipe.

    Raises:
        CutError: A layer is unknown or ambiguous, or cannot be pooled as asked; with all such problems, if several.
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
    """Return the tensors of an output's layers, their shapes, and the shape of one image's features, pooled.

    Raises:
        CutError: A layer is unknown or ambiguous, or cannot be pooled as asked.
    """
    found = [find_tensor(model, layer) for layer in output.layers]
    shapes = tuple(tuple(tensor.shape) for tensor in found)
    return found, shapes, pooled_output_shape(output, shapes)
