"""What an output costs: the weights it needs and the arithmetic it takes."""

from __future__ import annotations

import math
from collections.abc import Iterator

import keras
from keras import layers


def count_params(model: keras.Model) -> int:
    """Return how many weights the model has, the statistics of its normalisations included."""
    return int(model.count_params())


def count_flops(model: keras.Model) -> int | None:
    """Return the floating-point operations of one image, a multiply-add counted as two.

    Counted are convolutions and matrix products, as in the papers; normalisations, activations and pooling are left
    out, they come to about one per cent.

    Returns:
        None when the model has a layer with weight matrices that this cannot count, or calls one more than once.
    """
    total = 0
    for layer in _leaves(model):
        flops = _layer_flops(layer)
        if flops is None:
            return None
        total += flops
    return total


def _leaves(model: keras.Model) -> Iterator[keras.Layer]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _leaves(layer)
        else:
            yield layer


def _layer_flops(layer: keras.Layer) -> int | None:
    kernels = [weight for weight in layer.weights if len(weight.shape) > 1]
    if not kernels:
        return 0
    counted = (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D, layers.Dense)
    if not isinstance(layer, counted) or len(layer._inbound_nodes) != 1:  # noqa: SLF001 -- see exporter.tensors
        return None
    # A kernel is applied once at every position of the output. (A stride acts in the depthwise half of a
    # separable convolution, which therefore has as many positions as the whole.)
    positions = math.prod(layer.output.shape[1:-1])
    return sum(int(2 * positions * math.prod(kernel.shape)) for kernel in kernels)
