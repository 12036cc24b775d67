"""Build a backbone with its weights: never a traceback for want of a network, never silently random."""

from __future__ import annotations

from dataclasses import dataclass

import keras

from exporter.anatomy.calls import functional
from exporter.anatomy.resizing import resized
from exporter.backbones import BACKBONES, Backbone
from exporter.errors import ImpossibleWeights
from exporter.preprocessing import Preprocessing
from exporter.sources import keras_applications, own_architectures, own_models
from exporter.weights.weights_file import load_weights_file

_SEED = 0
OWN_WEIGHTS = "own"


@dataclass(frozen=True, slots=True)
class Built:
    """A backbone ready to be cut.

    Attributes:
        row: The backbone's row.
        model: Takes float32 [N, H, W, 3], scaled as `row.scaling` says.
        weights: `imagenet`, `random`, `own`, or the path of a weights file.
        source: Where the weights came from, for people.
    """

    row: Backbone
    model: keras.Model
    weights: str
    source: str


def build(row: Backbone, weights: str | None, pixels: Preprocessing, *, include_top: bool | None = None) -> Built:
    """Build a backbone for an input size.

    Args:
        row: Which.
        weights: `imagenet` or `random` for a row of the table, `own` for an own model; for both, a weights file. None
            when only the architecture matters: random, or what comes with an own model.
        pixels: Height and width.
        include_top: Whether the classifier is there, so that its layers can be cut at too. For None it is where
            published weights fit it: at the backbone's own input size.

    Raises:
        WeightsUnavailable: The weights are neither here nor to be fetched.
        WeightsFileBroken: The weights are here but not what they should be.
        ImpossibleInput: The architecture does not allow this size, or this size with the classifier.
        ImpossibleWeights: This kind of backbone has no such weights.
        ImpossibleModel: What the user's file or function gives is not a model that can be cut.
    """
    # Random weights are seeded because the same recipe must give the same vectors on every run.
    keras.utils.set_random_seed(_SEED)
    if row.name not in BACKBONES:
        return _own_model(row, weights, pixels)
    own = row.preprocessing
    if include_top is None:
        include_top = (pixels.height, pixels.width) == (own.height, own.width)
    weights = weights or "random"
    from_file = weights not in ("imagenet", "random")
    published = "random" if from_file else weights
    source = keras_applications if row.module is not None else own_architectures
    model, origin = source.build(row, published, (pixels.height, pixels.width), include_top=include_top)
    if from_file:
        origin = load_weights_file(model, row.name, weights)
    elif weights == "random":
        origin = f"random initialisation by Keras {keras.__version__}, seed {_SEED}"
    return Built(row, model, weights, origin)


def _own_model(row: Backbone, weights: str | None, pixels: Preprocessing) -> Built:
    if weights in ("imagenet", "random"):
        raise ImpossibleWeights(
            f"Expected weights: {OWN_WEIGHTS} or a weights file for {row.name}, which comes with its own. "
            f"Received: {weights!r}."
        )
    model, origin = own_models.load(row.name)
    model = resized(functional(model), pixels.height, pixels.width)
    if weights not in (None, OWN_WEIGHTS):
        origin = load_weights_file(model, row.name, str(weights))
    return Built(row, model, weights or OWN_WEIGHTS, origin)
