"""Backbones that Keras ships, with ImageNet weights that it downloads."""

from __future__ import annotations

import contextlib
import re
import sys

import keras

from exporter.backbones import Backbone
from exporter.errors import ImpossibleInput, WeightsUnavailable

_URL = re.compile(r"https?://\S+?(?=[\s:,]|$)")


def build(row: Backbone, weights: str, size: tuple[int, int], *, include_top: bool) -> tuple[keras.Model, str]:
    """Return the model and where its weights came from.

    Args:
        row: Of an architecture of Keras.
        weights: `imagenet` or `random`.
        size: Height and width in pixels.
        include_top: Whether the classifier is there.

    Raises:
        WeightsUnavailable: Keras neither has the weights nor can fetch them.
        ImpossibleInput: The architecture does not allow this size.
    """
    factory = getattr(keras.applications, row.name)
    wanted = None if weights == "random" else weights
    try:
        with contextlib.redirect_stdout(sys.stderr):  # Keras shows the download on stdout, which is for results
            model = factory(weights=wanted, include_top=include_top, input_shape=(*size, 3))
    except Exception as error:  # keras.utils.get_file raises a bare Exception when it cannot fetch
        reason = " ".join(str(error).split())
        if isinstance(error, ValueError) and ("size" in reason or "input_shape" in reason):
            classifier = " with its classifier" if include_top else ""
            raise ImpossibleInput(
                f"Expected an input that {row.name}{classifier} can be built for. Received: {size[0]}x{size[1]} "
                f"pixels. Keras says: {reason} Set input: size: in the recipe."
            ) from error
        if wanted is None:
            raise
        raise WeightsUnavailable(_unavailable(row, reason)) from error
    return model, f"keras.applications.{row.name}, weights='imagenet', Keras {keras.__version__}"


def _unavailable(row: Backbone, reason: str) -> str:
    url = _URL.search(reason)
    return (
        f"Expected the ImageNet weights of {row.name} from {url[0] if url else 'the Keras cache'}. Received: "
        f"{reason.rsplit(' -- ', 1)[-1]}. Two ways on: give the file, fetched elsewhere, as weights: FILE.h5 in the "
        "recipe; or use the backbone EfficientNetLite0, 1 or 2, whose weights are installed."
    )
