"""Pool feature maps to vectors, in the graph, and compute the shapes of the results."""

import math
from collections.abc import Sequence

import tensorflow as tf

from exporter.errors import ImpossiblePooling
from exporter.recipe.pooling_names import PoolingName
from exporter.recipe.resolved import OutputRecipe

GEM_FLOOR = 1e-6
"""Generalised means need positive numbers: smaller ones are raised to this, as in the authors' code."""


def pooled_output_shape(output: OutputRecipe, shapes: Sequence[Sequence[int | None]]) -> tuple[int, ...]:
    """Return the shape of one image's features after pooling, before projection.

    Args:
        output: The output's recipe.
        shapes: Shapes of its layers' tensors, batch first.

    Raises:
        ImpossiblePooling: A layer has no positions to pool over, or no fixed shape.
    """
    parts = [
        _pooled_shape(output.name, layer, output.pooling, shape)
        for layer, shape in zip(output.layers, shapes, strict=True)
    ]
    return parts[0] if len(parts) == 1 else (sum(math.prod(part) for part in parts),)


def _pooled_shape(name: str, layer: str, pooling: str, shape: Sequence[int | None]) -> tuple[int, ...]:
    fixed = tuple(side for side in shape[1:] if side is not None)
    if len(fixed) != len(shape) - 1 or not fixed:
        raise ImpossiblePooling(
            f"Expected a layer of fixed shape for the output {name}. Received: {layer} of {tuple(shape)}."
        )
    wanted = PoolingName.parse(pooling)
    if wanted.kind == "none" or (wanted.kind == "map" and len(fixed) == 3):
        return fixed
    if wanted.kind == "flatten":
        return (math.prod(fixed),)
    if wanted.kind == "spp":
        _want_map(name, layer, wanted, fixed)
        return (fixed[-1] * sum(int(level) ** 2 for level in wanted.numbers),)
    if wanted.kind == "map" or (len(fixed) != 2 and (len(fixed) != 3 or wanted.kind == "cls")):
        ranks = {"cls": "tokens [N, T, C]", "map": "a feature map [N, H, W, C] or tokens of patches"}
        rank = ranks.get(wanted.kind, "a feature map [N, H, W, C] or tokens [N, T, C]")
        instead = "avg" if len(fixed) == 3 else "none"
        raise ImpossiblePooling(
            f"Expected a layer with {rank} for pooling: {pooling} of the output {name}. "
            f"Received: {layer} of {tuple(shape)}. Say pooling: {instead}."
        )
    return fixed[-1:]


def pool(features: tf.Tensor, pooling: str) -> tf.Tensor:
    """Pool a batch of features.

    Args:
        features: float [N, H, W, C], [N, T, C], or any shape for `none` and `flatten`; all sides but N fixed.
        pooling: In the notation of `exporter.recipe.pooling_names`.

    Returns:
        float32 [N, D], or the features themselves for `none` and `map`.
    """
    features = tf.cast(features, tf.float32)
    name = PoolingName.parse(pooling)
    space = list(range(1, features.shape.rank - 1))
    if name.kind in ("avg", "max"):
        return {"avg": tf.reduce_mean, "max": tf.reduce_max}[name.kind](features, axis=space)
    if name.kind == "gem":
        return _generalised_mean(features, name.numbers[0], space)
    if name.kind == "spp":
        return _pyramid(features, [int(level) for level in name.numbers])
    if name.kind == "cls":
        return features[:, 0]
    return tf.reshape(features, [-1, math.prod(features.shape[1:])]) if name.kind == "flatten" else features


def bins(side: int, level: int) -> list[tuple[int, int]]:
    """Return the bounds of one pyramid level's bins along a side, as even as whole cells allow."""
    return [(index * side // level, -(-(index + 1) * side // level)) for index in range(level)]


def _generalised_mean(features: tf.Tensor, power: float, space: list[int]) -> tf.Tensor:
    """Radenović, Tolias and Chum, "Fine-tuning CNN Image Retrieval with No Human Annotation", arXiv:1711.02512."""
    positive = tf.maximum(features, GEM_FLOOR)
    # Relative to the largest, because high powers of large activations overflow float32.
    largest = tf.reduce_max(positive, axis=space, keepdims=True)
    mean = tf.reduce_mean(tf.pow(positive / largest, power), axis=space)
    return tf.squeeze(largest, space) * tf.pow(mean, 1.0 / power)


def _pyramid(features: tf.Tensor, levels: Sequence[int]) -> tf.Tensor:
    """Maxima over finer and finer bins: He et al., "Spatial Pyramid Pooling in Deep ... Networks", arXiv:1406.4729.

    Levels are in the recipe's order; within a level the order is row, column, channel.
    """
    height, width = features.shape[1:3]
    parts = [
        tf.reduce_max(features[:, top:bottom, left:right], axis=[1, 2])
        for level in levels
        for top, bottom in bins(height, level)
        for left, right in bins(width, level)
    ]
    return tf.concat(parts, axis=1)


def _want_map(name: str, layer: str, wanted: PoolingName, fixed: tuple[int, ...]) -> None:
    finest = int(max(wanted.numbers))
    if len(fixed) != 3 or min(fixed[:2]) < finest:
        raise ImpossiblePooling(
            f"Expected a layer with a feature map of at least {finest}x{finest} for pooling: {wanted} of the output "
            f"{name}. Received: {layer} of {'x'.join(map(str, fixed))}. Leave the finer levels out, or cut earlier."
        )
