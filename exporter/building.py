"""Build a backbone with its weights: never a traceback for want of a network, never silently random."""

from __future__ import annotations

import contextlib
import re
import sys
from dataclasses import dataclass

import keras

from exporter.architectures import efficientnet_lite
from exporter.backbones import Backbone
from exporter.errors import ImpossibleInput, WeightsUnavailable
from exporter.preprocessing import Preprocessing
from exporter.weights.efficientnet_lite import load_imagenet

_SEED = 0
_URL = re.compile(r"https?://\S+?(?=[\s:,]|$)")


@dataclass(frozen=True, slots=True)
class Built:
    """A backbone ready to be cut.

    Attributes:
        row: The backbone's row.
        model: Takes float32 [N, H, W, 3], scaled as `row.scaling` says.
        weights: `imagenet` or `random`.
        source: Where the weights came from, for people.
    """

    row: Backbone
    model: keras.Model
    weights: str
    source: str


def build(row: Backbone, weights: str, pixels: Preprocessing) -> Built:
    """Build a backbone for an input size.

    The classifier is there at the backbone's own input size, so that its layers can be cut at too; published
    weights fit it at no other size, so elsewhere it is left out.

    Raises:
        WeightsUnavailable: The weights are neither here nor to be fetched.
        WeightsFileBroken: The weights are here but not what they should be.
        ImpossibleInput: The architecture does not allow this size.
    """
    # Random weights are seeded because the same recipe must give the same vectors on every run.
    keras.utils.set_random_seed(_SEED)
    own = row.preprocessing
    include_top = (pixels.height, pixels.width) == (own.height, own.width)
    if row.module is None:
        model = efficientnet_lite.build(row.name, pixels.height, pixels.width, include_top=include_top)
        source = load_imagenet(model, row.name) if weights == "imagenet" else _random_source()
        return Built(row, model, weights, source)
    source = _random_source()
    if weights == "imagenet":
        source = f"keras.applications.{row.name}, weights='imagenet', Keras {keras.__version__}"
    return Built(row, _from_keras(row, weights, (pixels.height, pixels.width, 3), include_top), weights, source)


def _random_source() -> str:
    return f"random initialisation by Keras {keras.__version__}, seed {_SEED}"


def _from_keras(row: Backbone, weights: str, shape: tuple[int, int, int], include_top: bool) -> keras.Model:
    factory = getattr(keras.applications, row.name)
    wanted = None if weights == "random" else weights
    try:
        with contextlib.redirect_stdout(sys.stderr):  # Keras shows the download on stdout, which is for results
            return factory(weights=wanted, include_top=include_top, input_shape=shape)
    except Exception as error:  # keras.utils.get_file raises a bare Exception when it cannot fetch
        reason = " ".join(str(error).split())
        if isinstance(error, ValueError) and "size" in reason:
            raise ImpossibleInput(
                f"Expected an input that {row.name} can be built for. Received: {shape[0]}x{shape[1]} pixels. "
                f"Keras says: {reason} Set input: size: in the recipe."
            ) from error
        if wanted is None:
            raise
        raise WeightsUnavailable(_unavailable(row, reason)) from error


def _unavailable(row: Backbone, reason: str) -> str:
    url = _URL.search(reason)
    return (
        f"Expected the ImageNet weights of {row.name} from {url[0] if url else 'the Keras cache'}. Received: "
        f"{reason.rsplit(' -- ', 1)[-1]}. Two ways on: run this where there is a network (a weights file of your own "
        "will be accepted later), or use the backbone EfficientNetLite0, whose weights are installed."
    )
