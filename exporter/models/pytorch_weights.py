"""Weights of a PyTorch state dict in a Keras model of the same network.

PyTorch stores convolution kernels as [out, in, height, width] and depthwise ones as [channels, 1, height, width]; Keras
as [height, width, in, out] and [height, width, channels, 1].
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from exporter.errors import WeightsFileBroken

_BOOKKEEPING = ".num_batches_tracked"


def fill(
    model: keras.Model,
    state: Mapping[str, np.ndarray[Any, Any]],
    path: Path,
    pairs: Iterable[tuple[str, str]],
    ignored: tuple[str, ...] = (),
) -> None:
    """Set the weights of a model from a state dict.

    Args:
        model: May lack layers at its end, such as its classifier.
        state: Tensors by name.
        path: The file that they come from, for messages.
        pairs: PyTorch modules and the corresponding layers.
        ignored: Beginnings of names that the model has nothing for.

    Raises:
        WeightsFileBroken: A tensor is missing or of another shape, or one is left.
    """
    by_name = {layer.name: layer for layer in model.layers}
    used: set[str] = set()
    for prefix, name in pairs:
        if name not in by_name:  # built without its classifier
            used.update(key for key in state if key.startswith(f"{prefix}."))
            continue
        keys, values = _values(by_name[name], prefix, state, path)
        by_name[name].set_weights(values)
        used.update(keys)
    left = [key for key in state if key not in used and not key.endswith(_BOOKKEEPING) and not key.startswith(ignored)]
    if left:
        raise WeightsFileBroken(f"Expected the weights of {model.name}. Received: {path}, which also has {left[0]}.")


def _values(
    layer: keras.Layer, prefix: str, state: Mapping[str, np.ndarray[Any, Any]], path: Path
) -> tuple[list[str], list[np.ndarray[Any, Any]]]:
    if isinstance(layer, layers.BatchNormalization):
        keys = [f"{prefix}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
        axes: tuple[int, ...] | None = None
    elif isinstance(layer, layers.Dense):
        keys, axes = [f"{prefix}.weight", f"{prefix}.bias"], (1, 0)
    else:
        depthwise = isinstance(layer, layers.DepthwiseConv2D)
        keys, axes = [f"{prefix}.weight"], (2, 3, 0, 1) if depthwise else (2, 3, 1, 0)
        keys += [f"{prefix}.bias"] if layer.use_bias else []
    missing = [key for key in keys if key not in state]
    if missing:
        raise WeightsFileBroken(f"Expected {missing[0]} for the layer {layer.name}. Received: {path} without it.")
    values = [state[key].transpose(axes) if axes and state[key].ndim == len(axes) else state[key] for key in keys]
    wanted = [tuple(weight.shape) for weight in layer.weights]
    shapes = [value.shape for value in values]
    if shapes != wanted:
        raise WeightsFileBroken(f"Expected {layer.name} of shapes {wanted}. Received: {shapes} in {path}.")
    return keys, values
