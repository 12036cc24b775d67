"""What a network costs: the weights it needs and the arithmetic it takes."""

from __future__ import annotations

import math

import keras
from keras import layers

from exporter.anatomy.calls import Call, Network


def count_params(model: keras.Model) -> int:
    """Return how many weights the model has, the statistics of its normalisations included."""
    return int(model.count_params())


def count_flops(model: keras.Model) -> int | None:
    """Return the floating-point operations of one image, a multiply-add counted as two.

    Counted are convolutions and matrix products, as in the papers; normalisations, activations and pooling are left
    out, they come to about one per cent. A layer that is called twice is counted twice.

    Returns:
        None when the model has a layer with weight matrices that this cannot count.
    """
    return total([call_flops(call) for call in Network(model).calls])


def call_flops(call: Call) -> int | None:
    """Return the operations of one call of a layer for one image, or None when they cannot be counted."""
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
    # A kernel is applied once at every position of the output. (A stride acts in the depthwise half of a
    # separable convolution, which therefore has as many positions as the whole.)
    return sum(int(2 * math.prod(positions) * math.prod(kernel.shape)) for kernel in kernels)


def total(flops: list[int | None]) -> int | None:
    """Add operations up; what is not known makes the sum unknown."""
    known = [number for number in flops if number is not None]
    return sum(known) if len(known) == len(flops) else None
