"""What is looked at: a layer of a backbone, what a user wants to see of it, and photos after the pass over them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from exporter.errors import ImpossibleOption, UnknownLayer
from exporter.features.store import FeatureStore
from exporter.graph.cut_points import Field, cut_points, default_cut, fields
from exporter.graph.network import Network
from exporter.graph.tensors import find_tensor
from exporter.head.scaling import scale
from exporter.look.backpropagation import Rule, Seed, class_scores, input_gradient, obstacle, run
from exporter.models.building import Built
from microtome.manifest import InputSpec

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Request:
    """What a user asks for.

    Attributes:
        layer: As in a recipe.
        pooling: From the layer's maps to a vector, in the notation of recipes.
        photos: Files.
        folder: Where they are.
        out: The report.
        channels: How many channels are shown at most; 0 leaves the figure out.
        heat: How many photos get heat maps at most; 0 leaves them out.
        class_index: Of the class that heat maps explain; None for each photo's highest.
        like: A photo that the others are compared with; None for each one's nearest.
    """

    layer: str
    pooling: str
    photos: tuple[Path, ...]
    folder: Path
    out: Path
    channels: int
    heat: int
    class_index: int | None
    like: Path | None


class Subject:
    """The layer that is looked at.

    Attributes:
        built: The backbone.
        pixels: The preprocessing of its images.
        network: The backbone's graph.
        tensor: The layer's maps.
        field: The receptive field of their positions.
        scores: The class scores; None without a classifier.
    """

    def __init__(self, built: Built, pixels: InputSpec, layer: str) -> None:
        """Find the layer.

        Raises:
            UnknownLayer: There is no such layer, or it has no map.
        """
        self.built, self.pixels = built, pixels
        self.network = Network(built.model)
        self.tensor = find_tensor(self.network.model, layer)
        position = self.network.position(self.tensor)
        self.field: Field = fields(self.network)[position]
        shape = tuple(self.tensor.shape)
        if len(shape) != 4 or None in shape[1:] or (self.field.known and self.field.spans is None):
            last = default_cut(cut_points(self.network.model))
            raise UnknownLayer(
                f"Expected a layer whose output is a map of positions [N, H, W, C]. Received: {layer} of {shape}. "
                f"{f'The last map of {self.name} is {last.ref}' if last else f'{self.name} has none'}; see microtome "
                "layers."
            )
        scores = class_scores(self.network)
        reached = scores is not None and self.network.needed[self.network.position(scores)] >> position & 1
        self.scores = scores if reached else None

    @property
    def name(self) -> str:
        """The backbone's name, without a path."""
        return self.built.row.name.rpartition("/")[2]

    @cached_property
    def obstacle(self) -> str | None:
        """What leaves DeconvNet undefined here."""
        return obstacle(self.network, self.tensor)

    def scaled(self, images: tf.Tensor) -> tf.Tensor:
        """Scale pixels of 0 to 255 as the network takes them."""
        return scale(images, self.built.row.scaling)

    def want(self, request: Request) -> None:
        """Check that a request is possible.

        Raises:
            ImpossibleOption: The figure is undefined for this network, or there is no such class.
        """
        if request.channels and self.obstacle:
            raise ImpossibleOption(
                f"Expected a network with ReLU for DeconvNet's figure, whose way back is defined for no other. "
                f"Received: {self.obstacle} before {request.layer} of {self.name}. Add --channels 0 for the heat maps, "
                "which any network has."
            )
        if request.class_index is not None:
            classes = self.scores.shape[1] if self.scores is not None else 0
            if request.class_index >= classes:
                which = f"a class from 0 to {classes - 1}" if classes else "no --class without a classifier"
                raise ImpossibleOption(
                    f"Expected {which}. Received: --class {request.class_index} for {self.name}. A classifier is built "
                    "at the backbone's own input size, unless the recipe leaves it out."
                )

    def back(self, pixels: Array, tensor: keras.KerasTensor, seed: Seed, rule: Rule) -> Array:
        """Pass something at a tensor back to the pixels: float32 [N, H, W, 3] of uint8 [N, H, W, 3]."""
        images = tf.cast(pixels, tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(images)
            scaled = self.scaled(images)
        passed = input_gradient(self.network, scaled, tensor, seed, rule)
        return np.asarray(tape.gradient(scaled, images, output_gradients=passed))

    def maps(self, pixels: Array) -> tf.Tensor:
        """Return the layer's maps of one photo, float32 [1, H, W, C]; pixels are uint8 [height, width, 3]."""
        known = {id(self.network.model.inputs[0]): self.scaled(tf.constant(pixels[None]))}
        return run(self.network, known, [self.tensor])[0]


@dataclass(frozen=True, slots=True)
class Passed:
    """Photos after the pass over them.

    Attributes:
        files: All of them.
        keys: What tells a photo, seen by this layer, from any other.
        there: Indices of those that were decoded.
        store: Has for each photo the largest activation of each channel, `peak`, its `place`, and the pooled `vector`.
    """

    files: Sequence[Path]
    keys: Sequence[str]
    there: Array
    store: FeatureStore
