"""The head of a frozen graph: from the cut layers' features to an embedding (pool, append, project, normalise)."""

import math
from collections.abc import Callable, Mapping

import tensorflow as tf

from exporter.head.dense import FLOOR, DenseHead
from exporter.head.pooling import pool
from exporter.head.projection import Fitted, FittedPca
from exporter.head.slicing import SliceOutput
from exporter.recipe.resolved import OutputRecipe

_SMALLEST_SQUARE = 1e-12

Head = Callable[[Mapping[str, tf.Tensor], SliceOutput], tf.Tensor]
"""Computes one output from the cut layers' features, by layer."""


def whole_head(projections: Mapping[str, Fitted]) -> Head:
    """Return the head that computes embeddings.

    Args:
        projections: By output name, for the outputs that have one.
    """

    def head(features: Mapping[str, tf.Tensor], output: SliceOutput) -> tf.Tensor:
        vectors = embedding(_with_shapes(features, output), output.recipe, projections.get(output.recipe.name))
        if output.head is not None:
            vectors = _answers(vectors, output.head)
        return tf.ensure_shape(vectors, [None, *output.shape])

    return head


def pooled_head(features: Mapping[str, tf.Tensor], output: SliceOutput) -> tf.Tensor:
    """Compute the features that a projection is fitted on."""
    return _pooled_features(_with_shapes(features, output), output.recipe)


def embedding(features: Mapping[str, tf.Tensor], output: OutputRecipe, fitted: Fitted | None) -> tf.Tensor:
    """Return the embeddings of a batch.

    Args:
        features: By layer, float [N, ...].
        output: The output's recipe.
        fitted: The output's projection, if it has one.

    Returns:
        float32 [N, ...].
    """
    vectors = _pooled_features(features, output)
    if fitted is not None:
        vectors = _projected(vectors, fitted)
    return _normalised(vectors) if output.normalize == "l2" else vectors


def _with_shapes(features: Mapping[str, tf.Tensor], output: SliceOutput) -> dict[str, tf.Tensor]:
    """Set the static shapes, which grouped convolutions lose and pooling and the signature need."""
    return {
        cut: tf.ensure_shape(features[cut], [None, *shape[1:]])
        for cut, shape in zip(output.recipe.cuts, output.layer_shapes, strict=True)
    }


def _pooled_features(features: Mapping[str, tf.Tensor], output: OutputRecipe) -> tf.Tensor:
    """Return the features before projection: float32 [N, D], or the feature map itself for pooling: none."""
    parts = [pool(features[cut], output.pooling) for cut in output.cuts]
    if len(parts) == 1:
        return parts[0]
    # The scales of layers differ by orders of magnitude: without normalising, the largest would decide every
    # comparison.
    return tf.concat([_normalised(tf.reshape(part, [-1, math.prod(part.shape[1:])])) for part in parts], axis=1)


def _projected(vectors: tf.Tensor, fitted: Fitted) -> tf.Tensor:
    if isinstance(fitted, FittedPca):
        return tf.matmul(vectors - tf.constant(fitted.mean), tf.constant(fitted.components))
    nonzeros = tf.stack([tf.constant(fitted.rows), tf.constant(fitted.columns)], axis=1)
    matrix = tf.SparseTensor(nonzeros, tf.constant(fitted.signs), [fitted.dim, vectors.shape[1]])
    return tf.transpose(tf.sparse.sparse_dense_matmul(matrix, vectors, adjoint_b=True))


def _answers(vectors: tf.Tensor, head: DenseHead) -> tf.Tensor:
    """Return what a trained head makes of embeddings: float32 [N, classes]."""
    found = vectors
    for index, (kernel, bias) in enumerate(head.layers):
        found = tf.matmul(found, tf.constant(kernel)) + tf.constant(bias)
        if index < len(head.layers) - 1:
            found = tf.nn.relu(found)
    if head.known is None:
        return found
    likeness = tf.matmul(_normalised(vectors), tf.constant(head.known), transpose_b=True)
    distance = 1.0 - tf.reduce_max(likeness, axis=1, keepdims=True)
    return found * tf.clip_by_value((head.far - distance) / (head.far - head.near), FLOOR, 1.0)


def _normalised(vectors: tf.Tensor) -> tf.Tensor:
    """Scale each image's numbers, also those of a feature map, to Euclidean length one."""
    axes = list(range(1, vectors.shape.rank))
    squares = tf.reduce_sum(tf.square(vectors), axis=axes, keepdims=True)
    return vectors * tf.math.rsqrt(tf.maximum(squares, _SMALLEST_SQUARE))
