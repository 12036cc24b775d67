"""From the cut layers' features to one embedding, in the graph: pool → append → project → normalise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import tensorflow as tf

from exporter.pooling import pool, pooled_shape
from exporter.projection import Fitted, FittedPca
from exporter.recipe import OutputRecipe

_SMALLEST_SQUARE = 1e-12


def pooled_output_shape(output: OutputRecipe, shapes: Sequence[Sequence[int | None]]) -> tuple[int, ...]:
    """Return the shape of one image's embedding before any projection.

    Args:
        output: What the recipe asks for.
        shapes: Of its layers' tensors, batch first.

    Raises:
        ImpossiblePooling: A layer cannot be pooled as asked.
    """
    parts = [
        pooled_shape(output.name, layer, output.pooling, shape)
        for layer, shape in zip(output.layers, shapes, strict=True)
    ]
    return parts[0] if len(parts) == 1 else (sum(math.prod(part) for part in parts),)


def pooled_features(features: Mapping[str, tf.Tensor], output: OutputRecipe) -> tf.Tensor:
    """Return the embedding before any projection.

    Args:
        features: By layer, float [N, ...].
        output: What the recipe asks for.

    Returns:
        float32 [N, D], or the feature map itself for pooling: none.
    """
    parts = [pool(features[layer], output.pooling) for layer in output.layers]
    if len(parts) == 1:
        return parts[0]
    # Layers differ in scale by orders of magnitude: without normalising, the largest would be all that is compared.
    return tf.concat([_normalised(tf.reshape(part, [-1, math.prod(part.shape[1:])])) for part in parts], axis=1)


def embedding(features: Mapping[str, tf.Tensor], output: OutputRecipe, fitted: Fitted | None) -> tf.Tensor:
    """Return the embedding.

    Args:
        features: By layer, float [N, ...].
        output: What the recipe asks for.
        fitted: The output's projection, if it has one.

    Returns:
        float32 [N, ...].
    """
    vectors = pooled_features(features, output)
    if fitted is not None:
        vectors = _projected(vectors, fitted)
    return _normalised(vectors) if output.normalize == "l2" else vectors


def _projected(vectors: tf.Tensor, fitted: Fitted) -> tf.Tensor:
    if isinstance(fitted, FittedPca):
        return tf.matmul(vectors - tf.constant(fitted.mean), tf.constant(fitted.components))
    nonzeros = tf.stack([tf.constant(fitted.rows), tf.constant(fitted.columns)], axis=1)
    matrix = tf.SparseTensor(nonzeros, tf.constant(fitted.signs), [fitted.dim, vectors.shape[1]])
    return tf.transpose(tf.sparse.sparse_dense_matmul(matrix, vectors, adjoint_b=True))


def _normalised(vectors: tf.Tensor) -> tf.Tensor:
    """Scale each image's numbers, a feature map's too, to Euclidean length one."""
    axes = list(range(1, vectors.shape.rank))
    squares = tf.reduce_sum(tf.square(vectors), axis=axes, keepdims=True)
    return vectors * tf.math.rsqrt(tf.maximum(squares, _SMALLEST_SQUARE))
