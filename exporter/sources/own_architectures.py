"""Backbones that no library ships for Keras: defined here after their papers."""

from __future__ import annotations

from collections.abc import Callable

import keras

from exporter.architectures import alexnet, efficientnet_lite, googlenet, zfnet
from exporter.backbones import Backbone
from exporter.errors import ImpossibleInput, WeightsUnavailable
from exporter.weights.efficientnet_lite import load_imagenet

_PAPERS: dict[str, Callable[..., keras.Model]] = {
    "AlexNet": alexnet.build,
    "ZFNet": zfnet.build,
    "GoogLeNet": googlenet.build,
}


def build(row: Backbone, weights: str, size: tuple[int, int], *, include_top: bool) -> tuple[keras.Model, str]:
    """Return the model and where its weights came from.

    Args:
        row: Of an architecture of ours.
        weights: `imagenet` or `random`.
        size: Height and width in pixels.
        include_top: Whether the classifier is there.

    Raises:
        WeightsUnavailable: There are none, or the package that carries them is not installed.
        WeightsFileBroken: The package's file is not what it should be.
        ImpossibleInput: The architecture does not allow this size.
    """
    if row.name in efficientnet_lite.VARIANTS:
        model = efficientnet_lite.build(row.name, *size, include_top=include_top)
        return model, load_imagenet(model, row.name) if weights == "imagenet" else ""
    if weights == "imagenet":
        raise WeightsUnavailable(
            f"Expected weights: random or a weights file for {row.name}, whose authors published none. Received: "
            "'imagenet'. EfficientNetLite0, 1 and 2 come with theirs."
        )
    try:
        return _PAPERS[row.name](*size, include_top=include_top), ""
    except ValueError as error:
        raise ImpossibleInput(
            f"Expected an input that {row.name} can be built for. Received: {size[0]}x{size[1]} pixels. Keras says: "
            f"{' '.join(str(error).split())}"
        ) from error
