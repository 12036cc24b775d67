"""What follows the cut layers in a frozen graph: the whole way to the embedding, or only to where fitting begins."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from exporter.embedding import embedding, pooled_features
from exporter.freezing import Head
from exporter.projection import Fitted
from exporter.slicing import SliceOutput


def whole_head(projections: Mapping[str, Fitted]) -> Head:
    """Return the head that gives embeddings.

    Args:
        projections: By output name, for the outputs that have one.
    """

    def head(features: Mapping[str, tf.Tensor], output: SliceOutput) -> tf.Tensor:
        vectors = embedding(_shaped(features, output), output.recipe, projections.get(output.recipe.name))
        return tf.ensure_shape(vectors, [None, *output.shape])

    return head


def pooled_head(features: Mapping[str, tf.Tensor], output: SliceOutput) -> tf.Tensor:
    """Give the features that a projection is fitted on."""
    return pooled_features(_shaped(features, output), output.recipe)


def _shaped(features: Mapping[str, tf.Tensor], output: SliceOutput) -> dict[str, tf.Tensor]:
    # Grouped convolutions lose their static shape, which pooling needs and a signature should tell.
    return {
        layer: tf.ensure_shape(features[layer], [None, *shape[1:]])
        for layer, shape in zip(output.recipe.layers, output.layer_shapes, strict=True)
    }
