"""The reference outputs of a slice, by Keras and numpy, without the code that wrote the graph.

Keras scales with its own `preprocess_input`; pooling, projection and normalisation are computed by numpy in float64
from their definitions. Where two float32 results differ, the slice in float64 shows whether rounding explains it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import keras
import numpy as np

from exporter.graph.network import Network
from exporter.head.pooling import GEM_FLOOR, bins
from exporter.head.projection import Fitted, project
from exporter.head.slicing import Slice, SliceOutput
from exporter.recipe.backbones import BACKBONES, Backbone
from exporter.recipe.pooling_names import PoolingName
from exporter.runtime.memory import release

Array = np.ndarray[Any, Any]

_PIXELS = 8 * 224 * 224
"""Pixels per batch; the tensors between layers take gigabytes for a few images of 600x600."""


def reference(slice_: Slice, inputs: Array, projections: Mapping[str, Fitted] | None = None) -> dict[str, Array]:
    """Compute the reference outputs.

    Args:
        slice_: In float32 or float64, which is also the precision of the computation.
        inputs: uint8 [N, H, W, channels], or int32 [N, T] for a text tower.
        projections: By output name.

    Returns:
        float64 [N, ...], by output name.
    """
    parts: list[dict[str, Array]] = []
    dtype = np.dtype(slice_.model.inputs[0].dtype)
    batch = max(1, _PIXELS // math.prod(slice_.input.shape[:2]))
    for start in range(0, len(inputs), batch):
        given = inputs[start : start + batch].astype(dtype)
        features = compute(slice_.model, given if slice_.input.kind == "tokens" else _scaled(given, slice_.built.row))
        parts.append({o.recipe.name: _embedding(features, o, projections or {}) for o in slice_.outputs})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _scaled(images: Array, row: Backbone) -> Array:
    usual = BACKBONES.get(row.name)
    if usual is not None and usual.module is not None and usual.scaling == row.scaling:
        return np.asarray(getattr(keras.applications, usual.module).preprocess_input(images))
    if row.scaling == "none":
        return images
    return np.asarray(keras.applications.imagenet_utils.preprocess_input(images, mode=row.scaling))


def _embedding(features: Mapping[str, Array], output: SliceOutput, projections: Mapping[str, Fitted]) -> Array:
    recipe = output.recipe
    parts = [_pooled(features[cut].astype(np.float64), PoolingName.parse(recipe.pooling)) for cut in recipe.cuts]
    vectors = parts[0] if len(parts) == 1 else np.concatenate([_unit(part.reshape(len(part), -1)) for part in parts], 1)
    if recipe.projection is not None:
        vectors = project(vectors, projections[recipe.name])
    vectors = _unit(vectors) if recipe.normalize == "l2" else vectors
    return vectors if output.head is None else output.head.logits(vectors)


def _pooled(features: Array, pooling: PoolingName) -> Array:
    space = tuple(range(1, features.ndim - 1))
    if pooling.kind in ("avg", "max"):
        return np.asarray(np.mean(features, axis=space) if pooling.kind == "avg" else np.max(features, axis=space))
    if pooling.kind == "gem":
        (power,) = pooling.numbers
        return np.asarray((np.maximum(features, GEM_FLOOR) ** power).mean(axis=space) ** (1 / power))
    if pooling.kind == "spp":
        return np.concatenate([_level(features, int(level)) for level in pooling.numbers], axis=1)
    if pooling.kind == "cls":
        return features[:, 0]
    return features.reshape(len(features), -1) if pooling.kind == "flatten" else features


def _level(features: Array, level: int) -> Array:
    rows, columns = (bins(side, level) for side in features.shape[1:3])
    cells = [features[:, t:b, l:r].max(axis=(1, 2)) for t, b in rows for l, r in columns]  # noqa: E741
    return np.concatenate(cells, axis=1)


def _unit(vectors: Array) -> Array:
    axes = tuple(range(1, vectors.ndim))
    return np.asarray(vectors / np.maximum(np.sqrt((vectors**2).sum(axis=axes, keepdims=True)), 1e-6))


def compute(model: keras.Model, images: Array) -> dict[str, Array]:
    """Return the outputs of a functional model in inference mode, by name, freeing each tensor after its last use.

    `model(images)` keeps every layer's tensor until the end: 0.65 GB for one image of 380x380 pixels in
    EfficientNetB4, and twice that in float64. The calls and their order are the same here, and so are the results,
    bitwise.

    Args:
        model: From one tensor to a dictionary.
        images: [N, H, W, channels], or token ids, of the model's own dtype.
    """
    network = Network(model)
    last = {id(tensor): index for index, call in enumerate(network.calls) for tensor in call.inputs}
    wanted = {id(tensor) for tensor in model.outputs}
    (pixels,) = model.inputs
    tensors = {id(pixels): keras.ops.convert_to_tensor(images)}
    for index, call in enumerate(network.calls):
        if not isinstance(call.layer, keras.layers.InputLayer):
            given = call.compute(tensors)
            tensors |= {id(tensor): found for tensor, found in zip(call.outputs, given, strict=True)}
            del given
        for tensor in (*call.inputs, *call.outputs):
            if id(tensor) not in wanted and last.get(id(tensor), index) == index:
                tensors.pop(id(tensor), None)
    return {name: np.asarray(tensors[id(tensor)]) for name, tensor in model.output.items()}


@dataclass(frozen=True)
class Float64Reference:
    """The reference outputs in float64, computed for the images that need it.

    Attributes:
        slice_: In float32.
        inputs: uint8 [N, H, W, channels], or int32 [N, T] for a text tower.
        projections: By output name.
    """

    slice_: Slice
    inputs: Array
    projections: Mapping[str, Fitted]
    _known: dict[int, dict[str, Array]] = field(default_factory=dict, init=False)

    def outputs(self, rows: Array) -> dict[str, Array] | None:
        """Return the outputs of some images, float64 [len(rows), ...] by name; None if a layer fails in float64."""
        try:
            for row in set(rows.tolist()) - set(self._known):  # one at a time: float64 takes twice the memory
                self._known[row] = reference(self._precise, self.inputs[row : row + 1], self.projections)
            found = [self._known[row] for row in rows.tolist()]
            return {name: np.concatenate([vectors[name] for vectors in found]) for name in found[0]}
        except Exception:  # noqa: BLE001, own layers may raise anything in float64
            return None
        finally:
            release()

    @cached_property
    def _precise(self) -> Slice:
        return replace(self.slice_, model=in_float64(self.slice_.model))


def in_float64(model: keras.Model) -> keras.Model:
    """Return a copy of the network with the same weights that computes in float64."""

    def precise(layer: keras.layers.Layer) -> keras.layers.Layer:
        return layer.__class__.from_config(_in_float64(layer.get_config()))

    clone = keras.models.clone_model(model, clone_function=precise)
    for weight, original in zip(clone.weights, model.weights, strict=True):
        weight.assign(original)  # one at a time: `set_weights` copies all of them
    return clone


def _in_float64(config: Any) -> Any:  # noqa: ANN401, JSON
    if isinstance(config, dict):
        return {key: _in_float64(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return type(config)(_in_float64(value) for value in config)
    return "float64" if config == "float32" else config
