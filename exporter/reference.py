"""What a slice's outputs ought to be, by Keras and numpy: none of the code that the written graph was made with.

Keras scales with its own `preprocess_input`; pooling, projecting and normalising are done in numpy, in float64, from
their definitions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from exporter.backbones import BACKBONES, Backbone
from exporter.computing import compute
from exporter.pooling import GEM_FLOOR, bins
from exporter.pooling_names import PoolingName
from exporter.projection import Fitted, project
from exporter.slicing import Slice, SliceOutput

Array = np.ndarray[Any, Any]

_PIXELS = 8 * 224 * 224
"""At a time: what lies between two layers grows with them, to gigabytes for a few images of 600x600."""


def reference(slice_: Slice, pixels: Array, projections: Mapping[str, Fitted] | None = None) -> dict[str, Array]:
    """Compute the outputs.

    Args:
        slice_: The slice, in float32; or in float64, then all is computed in it.
        pixels: uint8 [N, H, W, 3], RGB.
        projections: By output name.

    Returns:
        By output name, float64 [N, ...].
    """
    parts: list[dict[str, Array]] = []
    dtype = np.dtype(slice_.model.inputs[0].dtype)
    batch = max(1, _PIXELS // (slice_.pixels.height * slice_.pixels.width))
    for start in range(0, len(pixels), batch):
        images = _scaled(pixels[start : start + batch].astype(dtype), slice_.built.row)
        features = compute(slice_.model, images)
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
    parts = [_pooled(features[layer].astype(np.float64), PoolingName.parse(recipe.pooling)) for layer in recipe.layers]
    vectors = parts[0] if len(parts) == 1 else np.concatenate([_unit(part.reshape(len(part), -1)) for part in parts], 1)
    if recipe.projection is not None:
        vectors = project(vectors, projections[recipe.name])
    return _unit(vectors) if recipe.normalize == "l2" else vectors


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
