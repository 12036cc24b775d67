"""The cost of a network: its weights and its floating-point operations."""

import math

import keras
from keras import layers

from exporter.graph.network import Call, Network


def count_params(model: keras.Model) -> int:
    """Return the number of weights, including the statistics of normalisation layers."""
    return int(model.count_params())


def count_flops(model: keras.Model) -> int | None:
    """Return the floating-point operations for one image; a multiply-add counts as two.

    Convolutions and matrix products are counted, as in the papers; normalisations, activations and pooling are not
    (about one per cent). A layer that is called twice counts twice.

    Returns:
        None if the model has a layer with weight matrices that this function cannot count.
    """
    return total([call_flops(call) for call in Network(model).calls])


def call_flops(call: Call) -> int | None:
    """Return the operations of one call of a layer for one image, or None if they cannot be counted."""
    layer = call.layer
    if isinstance(layer, keras.Model):
        return count_flops(layer)
    kernels = [weight for weight in getattr(layer, "weights", []) if len(weight.shape) > 1]
    if not kernels:
        return 0
    positions = call.outputs[0].shape[1:-1]
    counted = (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D, layers.Dense)
    if not isinstance(layer, counted) or None in positions:
        return None
    # A kernel is applied once at every position of the output. (In a separable convolution the stride is in the
    # depthwise half, so both halves have that many positions.)
    return sum(int(2 * math.prod(positions) * math.prod(kernel.shape)) for kernel in kernels)


def total(flops: list[int | None]) -> int | None:
    """Return the sum of operations; None if one of them is unknown."""
    known = [number for number in flops if number is not None]
    return sum(known) if len(known) == len(flops) else None
