"""GoogLeNet: Szegedy et al., "Going Deeper with Convolutions", 2014 (arXiv:1409.4842), table 1.

The two auxiliary classifiers serve training only and are left out.
"""

from __future__ import annotations

from typing import NamedTuple

import keras
from keras import layers

from exporter.architectures.local_response import LocalResponseNormalization


class Module(NamedTuple):
    """One inception module: the widths of its branches, as the columns of table 1."""

    name: str
    one: int
    three_reduce: int
    three: int
    five_reduce: int
    five: int
    pool: int


_STAGES = (
    (Module("3a", 64, 96, 128, 16, 32, 32), Module("3b", 128, 128, 192, 32, 96, 64)),
    (
        Module("4a", 192, 96, 208, 16, 48, 64),
        Module("4b", 160, 112, 224, 24, 64, 64),
        Module("4c", 128, 128, 256, 24, 64, 64),
        Module("4d", 112, 144, 288, 32, 64, 64),
        Module("4e", 256, 160, 320, 32, 128, 128),
    ),
    (Module("5a", 256, 160, 320, 32, 128, 128), Module("5b", 384, 192, 384, 48, 128, 128)),
)


def build(height: int, width: int, *, include_top: bool) -> keras.Model:
    """Return the network, randomly initialised, that takes float32 [N, height, width, 3] less the mean of each channel.

    Args:
        height: Pixels.
        width: Pixels.
        include_top: Whether to end in the ImageNet classifier, `predictions`: [N, 1000] softmax.
    """
    images = keras.Input((height, width, 3), name="input_layer")
    x = _conv(images, 64, 7, "conv1", stride=2)
    x = layers.MaxPooling2D(3, 2, "same", name="pool1")(x)
    x = LocalResponseNormalization(name="norm1")(x)
    x = _conv(x, 64, 1, "conv2_reduce")
    x = _conv(x, 192, 3, "conv2")
    x = LocalResponseNormalization(name="norm2")(x)
    for number, modules in enumerate(_STAGES, start=2):
        x = layers.MaxPooling2D(3, 2, "same", name=f"pool{number}")(x)
        for module in modules:
            x = _inception(x, module)
    if include_top:
        x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
        x = layers.Dropout(0.4, name="dropout")(x)
        x = layers.Dense(1000, activation="softmax", name="predictions")(x)
    return keras.Model(images, x, name="googlenet")


def _inception(x: keras.KerasTensor, module: Module) -> keras.KerasTensor:
    name = f"inception_{module.name}"
    one = _conv(x, module.one, 1, f"{name}_1x1")
    three = _conv(_conv(x, module.three_reduce, 1, f"{name}_3x3_reduce"), module.three, 3, f"{name}_3x3")
    five = _conv(_conv(x, module.five_reduce, 1, f"{name}_5x5_reduce"), module.five, 5, f"{name}_5x5")
    pooled = layers.MaxPooling2D(3, 1, "same", name=f"{name}_pool")(x)
    return layers.Concatenate(name=name)([one, three, five, _conv(pooled, module.pool, 1, f"{name}_pool_proj")])


def _conv(x: keras.KerasTensor, filters: int, kernel: int, name: str, stride: int = 1) -> keras.KerasTensor:
    return layers.Conv2D(filters, kernel, stride, "same", activation="relu", name=name)(x)
