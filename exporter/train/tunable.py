"""A backbone with a classifier on top, as one Keras model whose last layers can be trained."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from exporter.errors import ImpossibleHead, ImpossibleOption, nearest
from exporter.graph.network import Network, place
from exporter.head.dense import DenseHead
from exporter.head.slicing import Slice
from exporter.recipe.pooling_names import PoolingName

LOGITS = "head_logits"
_POOLINGS = ("avg", "max", "flatten", "none")

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of weights, as Keras counts them.

    Attributes:
        trainable: Those that training changes.
        frozen: All others, statistics of normalisations among them.
    """

    trainable: int
    frozen: int


@dataclass(frozen=True, slots=True)
class Tunable:
    """A model to train.

    Attributes:
        model: From scaled pixels, float32 [N, H, W, 3], to logits, float32 [N, classes].
        backbone: Its layers that are the backbone's, in Keras' order.
        layer: Name of the layer that the classifier is on.
    """

    model: keras.Model
    layer: str
    backbone: tuple[keras.Layer, ...]

    def freeze(self, first: int) -> None:
        """Freeze the backbone's layers before the `first`, and make all others trainable."""
        for index, layer in enumerate(self.backbone):
            layer.trainable = index >= first

    def counts(self) -> Counts:
        """Count trainable and frozen weights of the whole model."""
        trainable = sum(int(np.prod(weight.shape)) for weight in self.model.trainable_weights)
        return Counts(trainable, int(self.model.count_params()) - trainable)


def tunable(slice_: Slice, hidden: Sequence[int], classes: int, *, unit: bool = True) -> Tunable:
    """Put a classifier on a slice of one output.

    Args:
        slice_: The backbone, cut at one layer.
        hidden: Sizes of hidden layers.
        classes: Number of classes.
        unit: Whether the vector is scaled to length one first.

    Raises:
        ImpossibleHead: The output is made in a way that Keras layers cannot express.
    """
    (output,) = slice_.outputs
    pooling = PoolingName.parse(output.recipe.pooling)
    if output.recipe.more_layers or output.recipe.projection is not None or pooling.kind not in _POOLINGS:
        raise ImpossibleHead(
            f"Expected an output of one layer with pooling: {', '.join(_POOLINGS)} and no projection, to fine-tune. "
            f"Received: {output.recipe.name}. Name another output of the recipe, or train a head without --unfreeze."
        )
    (tensor,) = slice_.model.outputs
    images = slice_.model.inputs[0]
    backbone = tuple(keras.Model(images, tensor).layers)
    taken = {layer.name for layer in backbone}
    if any(name.startswith("head_") for name in taken):
        raise ImpossibleHead(
            "Expected a backbone without layers named head_…, which fine-tuning adds. Received: one that has them; "
            "train on the network that it was made from."
        )
    found = _pooled(tensor, pooling.kind)
    if unit:
        found = keras.layers.UnitNormalization(name="head_unit")(found)
    for index, size in enumerate(hidden):
        found = keras.layers.Dense(size, activation="relu", name=f"head_hidden_{index}")(found)
    logits = keras.layers.Dense(classes, name=LOGITS)(found)
    maker = next(call for call in Network(slice_.model).calls if any(one is tensor for one in call.outputs))
    return Tunable(keras.Model(images, logits), str(maker.layer.name), backbone)


def _pooled(tensor: keras.KerasTensor, kind: str) -> keras.KerasTensor:
    if kind == "flatten":
        return keras.layers.Flatten(name="head_pool")(tensor)
    if kind == "none":
        return tensor
    average = kind == "avg"
    if len(tensor.shape) == 3:
        layer = keras.layers.GlobalAveragePooling1D if average else keras.layers.GlobalMaxPooling1D
    else:
        layer = keras.layers.GlobalAveragePooling2D if average else keras.layers.GlobalMaxPooling2D
    return layer(name="head_pool")(tensor)


def set_head(model: keras.Model, head: DenseHead) -> None:
    """Give the classifier the weights of a head that was fitted on frozen features."""
    names = [f"head_hidden_{index}" for index in range(len(head.layers) - 1)] + [LOGITS]
    for name, (kernel, bias) in zip(names, head.layers, strict=True):
        model.get_layer(name).set_weights([kernel, bias])


def first_unfrozen(backbone: Sequence[keras.Layer], said: str) -> int:
    """Return the index of the first layer to train, from a layer's name, an index, or -N for the last N.

    Raises:
        ImpossibleOption: There is no such layer.
    """
    names = [layer.name for layer in backbone]
    for known in (names, [place(layer) for layer in backbone]):
        if said in known:
            return known.index(said)
    if said.removeprefix("-").isascii() and said.removeprefix("-").isdecimal() and len(said) < 9:
        index = int(said)
        if -len(names) <= index < len(names):
            return index % len(names)
        raise ImpossibleOption(
            f"Expected --unfreeze from -{len(names)} to {len(names) - 1}: the backbone has {len(names)} layers up to "
            f"its output. Received: {said}."
        )
    raise ImpossibleOption(f"Expected --unfreeze with a layer, its index or -N. Received: {said!r}. "
                           f"{nearest(said, names)}")  # fmt: skip
