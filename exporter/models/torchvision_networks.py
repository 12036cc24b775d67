"""AlexNet and GoogLeNet as torchvision has them, for its weights files.

They are other networks than those of the papers, which `classic_networks` has: AlexNet is that of "One weird trick for
parallelizing convolutional neural networks" (arXiv:1404.5997), without groups and normalisation; GoogLeNet has batch
normalisation, and 3x3 in place of 5x5 (github.com/pytorch/vision/issues/906). Layers have the papers' names.

After torchvision/models/alexnet.py and googlenet.py (BSD-3-Clause). Names of tensors are those of its state dicts.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from exporter.models.classic_networks import STAGES, Module
from exporter.models.pytorch_weights import fill

_BN_EPSILON = 1e-3
_HIDDEN = 4096
_FLATTENED = (256, 6, 6)
"""Channels, rows and columns before AlexNet's classifier."""


def alexnet(height: int, width: int, *, include_top: bool) -> keras.Model:
    """Return a randomly initialised AlexNet for float32 [N, height, width, 3], scaled as `torch`.

    With `include_top` it ends in `predictions`: [N, 1000] softmax.

    Raises:
        ValueError: The input is too small, or does not give the classifier 6x6 positions.
    """
    images = keras.Input((height, width, 3), name="input_layer")
    x = layers.ZeroPadding2D(2, name="pad1")(images)
    x = layers.Conv2D(64, 11, 4, activation="relu", name="conv1")(x)
    x = layers.MaxPooling2D(3, 2, name="pool1")(x)
    x = layers.Conv2D(192, 5, padding="same", activation="relu", name="conv2")(x)
    x = layers.MaxPooling2D(3, 2, name="pool2")(x)
    for number, filters in ((3, 384), (4, 256), (5, 256)):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"conv{number}")(x)
    x = layers.MaxPooling2D(3, 2, name="pool5")(x)
    if include_top:
        if tuple(x.shape[1:]) != (*_FLATTENED[1:], _FLATTENED[0]):
            raise ValueError(
                f"its classifier takes 6x6 positions, as 224x224 pixels give, not {x.shape[1]}x{x.shape[2]}."
            )
        x = layers.Flatten(name="flatten")(x)
        for number in (6, 7):
            x = layers.Dropout(0.5, name=f"drop{number}")(x)
            x = layers.Dense(_HIDDEN, activation="relu", name=f"fc{number}")(x)
        x = layers.Dense(1000, activation="softmax", name="predictions")(x)
    return keras.Model(images, x, name="alexnet")


def googlenet(height: int, width: int, *, include_top: bool) -> keras.Model:
    """Return a randomly initialised GoogLeNet for float32 [N, height, width, 3], scaled as `tf`.

    torchvision's own scaling is that of `torch`, and then what makes it that of `tf`. The two auxiliary classifiers
    serve training only. With `include_top` it ends in `predictions`: [N, 1000] softmax.
    """
    images = keras.Input((height, width, 3), name="input_layer")
    x = layers.ZeroPadding2D(3, name="pad1")(images)
    x = _convolution(x, 64, 7, "conv1", stride=2, padding="valid")
    x = _pool(x, "pool1")
    x = _convolution(x, 64, 1, "conv2_reduce")
    x = _convolution(x, 192, 3, "conv2")
    for number, modules in enumerate(STAGES, start=2):
        # Two rows and columns in the last pooling, where the paper has three.
        x = layers.MaxPooling2D(2, 2, "same", name="pool4")(x) if number == 4 else _pool(x, f"pool{number}")
        for module in modules:
            x = _inception(x, module)
    if include_top:
        x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
        x = layers.Dropout(0.2, name="dropout")(x)
        x = layers.Dense(1000, activation="softmax", name="predictions")(x)
    return keras.Model(images, x, name="googlenet")


BUILDERS = {"AlexNet": alexnet, "GoogLeNet": googlenet}


def load_state(model: keras.Model, backbone: str, state: dict[str, np.ndarray[Any, Any]], path: Path) -> None:
    """Load torchvision's state dict into a model of this module.

    Args:
        model: Of `BUILDERS`.
        backbone: Its name there.
        state: The tensors.
        path: The file that they come from, for messages.

    Raises:
        WeightsFileBroken: It is not the state dict of this network.
    """
    if backbone == "GoogLeNet":
        fill(model, state, path, _googlenet_pairs(), ignored=("aux1.", "aux2."))
        return
    first = state.get("classifier.1.weight")
    if first is not None and first.shape == (_HIDDEN, int(np.prod(_FLATTENED))):
        # PyTorch flattens channels first, Keras last.
        by_place = first.reshape(_HIDDEN, *_FLATTENED).transpose(0, 2, 3, 1)
        state = {**state, "classifier.1.weight": by_place.reshape(_HIDDEN, -1)}
    convolutions = {f"features.{place}": f"conv{number}" for number, place in enumerate((0, 3, 6, 8, 10), 1)}
    dense = {"classifier.1": "fc6", "classifier.4": "fc7", "classifier.6": "predictions"}
    fill(model, state, path, (convolutions | dense).items())


def _convolution(  # noqa: PLR0913, what a convolution has
    x: keras.KerasTensor, filters: int, kernel: int, name: str, *, stride: int = 1, padding: str = "same"
) -> keras.KerasTensor:
    x = layers.Conv2D(filters, kernel, stride, padding, use_bias=False, name=name)(x)
    x = layers.BatchNormalization(epsilon=_BN_EPSILON, name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_relu")(x)


def _pool(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Pool 3x3 with stride 2, rounding up: of an even side the last window extends over the edge by one."""
    rows, columns = x.shape[1:3]
    padding = ((0, 1 - rows % 2), (0, 1 - columns % 2))
    if padding != ((0, 0), (0, 0)):
        x = layers.ZeroPadding2D(padding, name=f"{name}_pad")(x)  # after a ReLU zero is the least
    return layers.MaxPooling2D(3, 2, name=name)(x)


def _inception(x: keras.KerasTensor, module: Module) -> keras.KerasTensor:
    name = f"inception_{module.name}"
    one = _convolution(x, module.one, 1, f"{name}_1x1")
    three = _convolution(x, module.three_reduce, 1, f"{name}_3x3_reduce")
    three = _convolution(three, module.three, 3, f"{name}_3x3")
    five = _convolution(x, module.five_reduce, 1, f"{name}_5x5_reduce")
    five = _convolution(five, module.five, 3, f"{name}_5x5")
    pooled = layers.MaxPooling2D(3, 1, "same", name=f"{name}_pool")(x)
    pooled = _convolution(pooled, module.pool, 1, f"{name}_pool_proj")
    return layers.Concatenate(name=name)([one, three, five, pooled])


_BRANCHES = {
    "branch1": "1x1", "branch2.0": "3x3_reduce", "branch2.1": "3x3", "branch3.0": "5x5_reduce", "branch3.1": "5x5",
    "branch4.1": "pool_proj",
}  # fmt: skip


def _googlenet_pairs() -> Iterator[tuple[str, str]]:
    """Yield pairs of a PyTorch module and the corresponding Keras layer."""
    units = {"conv1": "conv1", "conv2": "conv2_reduce", "conv3": "conv2"}
    for module in (module for modules in STAGES for module in modules):
        for theirs, ours in _BRANCHES.items():
            units[f"inception{module.name}.{theirs}"] = f"inception_{module.name}_{ours}"
    for theirs, ours in units.items():
        yield f"{theirs}.conv", ours
        yield f"{theirs}.bn", f"{ours}_bn"
    yield "fc", "predictions"
