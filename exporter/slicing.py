"""Cut a built backbone at the layers that a recipe names."""

from __future__ import annotations

from dataclasses import dataclass

import keras

from exporter.building import Built
from exporter.cost import count_flops, count_params
from exporter.errors import CutError
from exporter.pooling import pooled_shape
from exporter.recipe import ModelRecipe, OutputRecipe
from exporter.tensors import find_tensor


@dataclass(frozen=True, slots=True)
class SliceOutput:
    """One output of a slice, with its facts.

    Attributes:
        recipe: Name, layer and pooling.
        shape: Of one image's embedding.
        params: Weights that this output needs.
        flops: Operations for one image that this output needs; None when not known.
    """

    recipe: OutputRecipe
    shape: tuple[int, ...]
    params: int
    flops: int | None


@dataclass(frozen=True, slots=True)
class Slice:
    """A backbone up to its deepest cut.

    Attributes:
        built: The whole backbone.
        model: Takes what the backbone takes, gives the cut layers' tensors by output name, not yet pooled.
        outputs: In the order of the recipe.
    """

    built: Built
    model: keras.Model
    outputs: tuple[SliceOutput, ...]


def cut(built: Built, recipe: ModelRecipe) -> Slice:
    """Cut a backbone at the layers of a recipe.

    Raises:
        CutError: A layer is unknown or ambiguous, or cannot be pooled as asked; with all such problems, if several.
    """
    tensors: dict[str, keras.KerasTensor] = {}
    outputs, errors = [], []
    for output in recipe.outputs:
        try:
            tensor = find_tensor(built.model, output.layer)
            shape = pooled_shape(output, tensor.shape)
        except CutError as error:
            errors.append(error)
            continue
        alone = keras.Model(built.model.input, tensor)
        tensors[output.name] = tensor
        outputs.append(SliceOutput(output, shape, count_params(alone), count_flops(alone)))
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise CutError("\n".join(dict.fromkeys(str(error) for error in errors)))
    return Slice(built, keras.Model(built.model.input, tensors), tuple(outputs))
