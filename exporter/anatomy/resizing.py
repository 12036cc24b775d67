"""The same network on an input of another size."""

from __future__ import annotations

import keras

from exporter.anatomy.calls import Network
from exporter.errors import ImpossibleInput


def resized(model: keras.Model, height: int, width: int) -> keras.Model:
    """Return the model on images of this size, with the same layers; itself when it has this size.

    Args:
        model: Functional, of one input [N, H, W, C] of any fixed or unknown size.
        height: Pixels.
        width: Pixels.

    Raises:
        ImpossibleInput: A layer, such as a classifier on a flattened map, cannot take that size.
    """
    (images,) = model.inputs
    if tuple(images.shape[1:3]) == (height, width):
        return model
    start = keras.Input((height, width, images.shape[3]), dtype=images.dtype, name=images.name)
    tensors = {id(images): start}
    for call in Network(model).calls:
        if call.inputs:
            try:
                found = call.again(tensors)
            except ValueError as error:
                raise ImpossibleInput(
                    f"Expected an input size that {model.name} can take, such as its own "
                    f"{images.shape[1]}x{images.shape[2]}. Received: {height}x{width} pixels, at which the layer "
                    f"{call.layer.name} fails. Set input: size: in the recipe."
                ) from error
            tensors.update(zip((id(tensor) for tensor in call.outputs), found, strict=True))
    return keras.Model(start, [tensors[id(tensor)] for tensor in model.outputs], name=model.name)
