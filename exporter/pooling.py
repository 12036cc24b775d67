"""Turn a feature map into a vector, in the graph."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from exporter.errors import ImpossiblePooling
from exporter.recipe import OutputRecipe

_SPACE = (1, 2)


def pooled_shape(output: OutputRecipe, shape: Sequence[int | None]) -> tuple[int, ...]:
    """Return the shape of one image's embedding.

    Args:
        output: What the recipe asks for.
        shape: Of the layer's tensor, batch first.

    Raises:
        ImpossiblePooling: There is no space to pool over, or the shape is not fixed.
    """
    fixed = tuple(side for side in shape[1:] if side is not None)
    if len(fixed) != len(shape) - 1 or not fixed:
        raise ImpossiblePooling(
            f"Expected a layer of fixed shape for the output {output.name}. Received: {output.layer} of {tuple(shape)}."
        )
    if output.pooling == "none":
        return fixed
    if len(fixed) != 3:
        raise ImpossiblePooling(
            f"Expected a layer with a feature map [N, H, W, C] for pooling: {output.pooling} of the output "
            f"{output.name}. Received: {output.layer} of {tuple(shape)}. Say pooling: none."
        )
    return fixed[-1:]


def pool(features: tf.Tensor, pooling: str) -> tf.Tensor:
    """Pool a batch of feature maps.

    Args:
        features: float [N, H, W, C], or any shape for `none`.
        pooling: `avg`, `max` or `none`.

    Returns:
        float32 [N, C], or the features themselves for `none`.
    """
    features = tf.cast(features, tf.float32)
    if pooling == "avg":
        return tf.reduce_mean(features, axis=_SPACE)
    if pooling == "max":
        return tf.reduce_max(features, axis=_SPACE)
    return features
