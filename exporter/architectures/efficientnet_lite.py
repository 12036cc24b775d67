"""EfficientNet-Lite: EfficientNet (arXiv:1905.11946) without squeeze-and-excite, with relu6 for swish.

After TensorFlow's EfficientNet-Lite release of 2020. The stem and the head keep their width and the first and last
stage their depth whatever the variant, which is what lets the variants quantise and run alike. Layers are named
as `keras.applications` names those of EfficientNet.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import keras
from keras import layers

_STEM_FILTERS = 32
_HEAD_FILTERS = 1280
_PIXEL_MEAN = 127.0
_PIXEL_SCALE = 128.0
_BN_EPSILON = 1e-3


class Stage(NamedTuple):
    """A run of like blocks; only the first of them strides."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    filters: int


_STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


class Variant(NamedTuple):
    """How a member of the family differs from Lite0."""

    width: float
    depth: float
    dropout: float


VARIANTS = {
    "EfficientNetLite0": Variant(1.0, 1.0, 0.2),
    "EfficientNetLite1": Variant(1.0, 1.1, 0.2),
    "EfficientNetLite2": Variant(1.1, 1.2, 0.3),
}


def build(name: str, height: int, width: int, *, include_top: bool) -> keras.Model:
    """Return a variant, randomly initialised, that takes float32 [N, height, width, 3] RGB of 0..255.

    Args:
        name: A key of `VARIANTS`.
        height: Pixels.
        width: Pixels.
        include_top: Whether to end in the ImageNet classifier, `predictions`: [N, 1000] softmax.
    """
    variant = VARIANTS[name]
    images = keras.Input((height, width, 3), name="input_layer")
    x = layers.Rescaling(1 / _PIXEL_SCALE, offset=-_PIXEL_MEAN / _PIXEL_SCALE, name="rescaling")(images)
    x = layers.Conv2D(_STEM_FILTERS, 3, 2, "same", use_bias=False, name="stem_conv")(x)
    x = _normalised(x, "stem_bn", "stem_activation")
    for number, stage in enumerate(_STAGES, start=1):
        repeats = stage.repeats if number in (1, len(_STAGES)) else math.ceil(stage.repeats * variant.depth)
        filters = _rounded(stage.filters * variant.width)
        for index in range(repeats):
            stride = stage.stride if index == 0 else 1
            block = stage._replace(stride=stride, filters=filters)
            x = _block(x, block, f"block{number}{chr(ord('a') + index)}_")
    x = layers.Conv2D(_HEAD_FILTERS, 1, use_bias=False, name="top_conv")(x)
    x = _normalised(x, "top_bn", "top_activation")
    if include_top:
        x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
        x = layers.Dropout(variant.dropout, name="top_dropout")(x)
        x = layers.Dense(1000, activation="softmax", name="predictions")(x)
    return keras.Model(images, x, name=name.lower())


def _block(inputs: keras.KerasTensor, stage: Stage, prefix: str) -> keras.KerasTensor:
    """Widen, convolve each channel on its own, narrow; add the input where shapes allow."""
    entering = inputs.shape[-1]
    x = inputs
    if stage.expansion != 1:
        x = layers.Conv2D(entering * stage.expansion, 1, use_bias=False, name=f"{prefix}expand_conv")(x)
        x = _normalised(x, f"{prefix}expand_bn", f"{prefix}expand_activation")
    x = layers.DepthwiseConv2D(stage.kernel, stage.stride, "same", use_bias=False, name=f"{prefix}dwconv")(x)
    x = _normalised(x, f"{prefix}bn", f"{prefix}activation")
    x = layers.Conv2D(stage.filters, 1, use_bias=False, name=f"{prefix}project_conv")(x)
    x = layers.BatchNormalization(epsilon=_BN_EPSILON, name=f"{prefix}project_bn")(x)
    if stage.stride == 1 and entering == stage.filters:
        x = layers.Add(name=f"{prefix}add")([x, inputs])
    return x


def _normalised(x: keras.KerasTensor, norm: str, activation: str) -> keras.KerasTensor:
    x = layers.BatchNormalization(epsilon=_BN_EPSILON, name=norm)(x)
    return layers.ReLU(6.0, name=activation)(x)


def _rounded(filters: float) -> int:
    """Round to a multiple of eight that is not more than a tenth below."""
    multiple = max(8, int(filters + 4) // 8 * 8)
    return multiple + 8 if multiple < 0.9 * filters else multiple
