"""The backbones there are: one frozen row each.

A row is found without importing TensorFlow, so that recipes can be checked in no time. What the rows say about
scaling is what `keras.applications.<module>.preprocess_input` does; a test holds each of them to it. Input sizes
are those the published weights were trained or evaluated at; the shorter side is the customary evaluation
resize: 8/7 of the crop, and crop + 32 pixels for the EfficientNet family (arXiv:1905.11946).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from exporter.errors import UnknownBackbone, nearest
from exporter.recipe.own_backbones import PRESET_PREFIX, is_own, of_another_format, own_input, preset_input
from exporter.recipe.preprocessing import input_spec
from microtome.manifest import InputSpec, Interpolation

Scaling = Literal["caffe", "tf", "torch", "none"]


@dataclass(frozen=True, slots=True)
class Backbone:
    """One architecture.

    Attributes:
        name: As Keras spells it; also the name of the factory in `keras.applications`. A model of the user's own goes
            by the file, function or preset that it comes from.
        module: The module of `keras.applications` that has the architecture's `preprocess_input`; None for an
            architecture or a model that is not Keras'.
        scaling: What the graph must do to 0..255 pixels before the backbone; `none` when the backbone carries its
            own scaling layers.
        preprocessing: The default way from an image to pixels.
        torchvision: Whether it is torchvision's network of this name, which differs from the paper's.
    """

    name: str
    module: str | None
    scaling: Scaling
    preprocessing: InputSpec
    torchvision: bool = False


def _at(size: int, interpolation: Interpolation = "bilinear") -> InputSpec:
    return input_spec(size, size, shortest_side=round(size * 8 / 7), interpolation=interpolation)


def _padded(size: int) -> InputSpec:
    return input_spec(size, size, shortest_side=size + 32, interpolation="bicubic")


BACKBONES: dict[str, Backbone] = {
    row.name: row
    for row in (
        Backbone("EfficientNetLite0", None, "none", _at(224)),
        Backbone("EfficientNetLite1", None, "none", _at(240)),
        Backbone("EfficientNetLite2", None, "none", _at(260)),
        Backbone("AlexNet", None, "caffe", _at(227)),
        Backbone("ZFNet", None, "caffe", _at(224)),
        Backbone("GoogLeNet", None, "caffe", _at(224)),
        Backbone("ConvNeXtTiny", "convnext", "none", _at(224, "bicubic")),
        Backbone("ConvNeXtSmall", "convnext", "none", _at(224, "bicubic")),
        Backbone("ConvNeXtBase", "convnext", "none", _at(224, "bicubic")),
        Backbone("ConvNeXtLarge", "convnext", "none", _at(224, "bicubic")),
        Backbone("ConvNeXtXLarge", "convnext", "none", _at(224, "bicubic")),
        Backbone("DenseNet121", "densenet", "torch", _at(224)),
        Backbone("DenseNet169", "densenet", "torch", _at(224)),
        Backbone("DenseNet201", "densenet", "torch", _at(224)),
        Backbone("EfficientNetB0", "efficientnet", "none", _padded(224)),
        Backbone("EfficientNetB1", "efficientnet", "none", _padded(240)),
        Backbone("EfficientNetB2", "efficientnet", "none", _padded(260)),
        Backbone("EfficientNetB3", "efficientnet", "none", _padded(300)),
        Backbone("EfficientNetB4", "efficientnet", "none", _padded(380)),
        Backbone("EfficientNetB5", "efficientnet", "none", _padded(456)),
        Backbone("EfficientNetB6", "efficientnet", "none", _padded(528)),
        Backbone("EfficientNetB7", "efficientnet", "none", _padded(600)),
        Backbone("EfficientNetV2B0", "efficientnet_v2", "none", _padded(224)),
        Backbone("EfficientNetV2B1", "efficientnet_v2", "none", _padded(240)),
        Backbone("EfficientNetV2B2", "efficientnet_v2", "none", _padded(260)),
        Backbone("EfficientNetV2B3", "efficientnet_v2", "none", _padded(300)),
        Backbone("EfficientNetV2S", "efficientnet_v2", "none", _padded(384)),
        Backbone("EfficientNetV2M", "efficientnet_v2", "none", _padded(480)),
        Backbone("EfficientNetV2L", "efficientnet_v2", "none", _padded(480)),
        Backbone("InceptionResNetV2", "inception_resnet_v2", "tf", _at(299)),
        Backbone("InceptionV3", "inception_v3", "tf", _at(299)),
        Backbone("MobileNet", "mobilenet", "tf", _at(224)),
        Backbone("MobileNetV2", "mobilenet_v2", "tf", _at(224)),
        Backbone("MobileNetV3Small", "mobilenet_v3", "none", _at(224)),
        Backbone("MobileNetV3Large", "mobilenet_v3", "none", _at(224)),
        Backbone("NASNetMobile", "nasnet", "tf", _at(224)),
        Backbone("NASNetLarge", "nasnet", "tf", _at(331)),
        Backbone("ResNet50", "resnet", "caffe", _at(224)),
        Backbone("ResNet101", "resnet", "caffe", _at(224)),
        Backbone("ResNet152", "resnet", "caffe", _at(224)),
        Backbone("ResNet50V2", "resnet_v2", "tf", _at(224)),
        Backbone("ResNet101V2", "resnet_v2", "tf", _at(224)),
        Backbone("ResNet152V2", "resnet_v2", "tf", _at(224)),
        Backbone("VGG16", "vgg16", "caffe", _at(224)),
        Backbone("VGG19", "vgg19", "caffe", _at(224)),
        Backbone("Xception", "xception", "tf", _at(299)),
    )
}


TORCHVISION: dict[str, Backbone] = {
    "AlexNet": Backbone("AlexNet", None, "torch", _at(224), torchvision=True),
    "GoogLeNet": Backbone("GoogLeNet", None, "tf", _at(224), torchvision=True),
}
"""Rows with torchvision's weights files, by backbone."""

PYTORCH_FILES = (".pt", ".pth")


def find_backbone(name: str, weights: str | None = None) -> Backbone:
    """Return the row of that name with these weights, or one made for a model of the user's own.

    How an own model wants its pixels scaled cannot be known: as they are, unless a recipe says otherwise. A KerasHub
    preset brings it along.

    Raises:
        UnknownBackbone: There is none.
    """
    if name in TORCHVISION and weights is not None and weights.endswith(PYTORCH_FILES):
        return TORCHVISION[name]
    if name in BACKBONES:
        return BACKBONES[name]
    if name.startswith(PRESET_PREFIX) and (own := preset_input(name.removeprefix(PRESET_PREFIX))) is not None:
        return Backbone(name, None, "none", own.pixels)  # its scaling is a layer of the network
    if is_own(name):
        height, width, color = own_input(name)
        shortest_side = round(max(height, width) * 8 / 7)
        return Backbone(name, None, "none", input_spec(height, width, shortest_side=shortest_side, color=color))
    if (told := of_another_format(Path(name))) is not None:
        raise UnknownBackbone(told)
    raise UnknownBackbone(
        f"Expected one of {len(BACKBONES)} backbones, a .keras or .h5 file, module:function or keras_hub:preset. "
        f"Received: {name!r}. {nearest(name, BACKBONES)}"
    )
