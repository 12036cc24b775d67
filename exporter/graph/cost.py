"""The cost of a network: its weights and its floating-point operations."""

import math
from collections.abc import Callable

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
    if call.kind in _PRODUCTS:
        return _PRODUCTS[call.kind](call)
    kernels = [weight for weight in getattr(layer, "weights", []) if len(weight.shape) > 1]
    if not kernels:
        return 0
    positions = [side for side in _alone(call.outputs[0])[:-1] if side is not None]
    counted = (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D, layers.Dense)
    if not isinstance(layer, counted) or len(positions) < len(call.outputs[0].shape) - 1:
        return _of_parts(call)
    # A kernel is applied once at every position of the output. (In a separable convolution the stride is in the
    # depthwise half, so both halves have that many positions.)
    return sum(int(2 * math.prod(positions) * math.prod(kernel.shape)) for kernel in kernels)


def _of_parts(call: Call) -> int | None:
    """Count a layer that calls others, such as an attention, by what its `call` does with one image."""
    if isinstance(call.layer, layers.Embedding):
        return 0  # rows of its table are looked up
    given = {id(tensor): keras.Input(batch_shape=_alone(tensor), dtype=tensor.dtype) for tensor in call.inputs}
    try:
        args, kwargs = call.own_arguments(given)
        found = keras.Model(list(given.values()), keras.tree.flatten(call.layer.call(*args, **kwargs)))
        calls = Network(found).calls if getattr(call.layer, "_layers", ()) else ()
        return total([call_flops(each) for each in calls]) if calls else None
    except Exception:  # noqa: BLE001, Python that computes with values
        return None


def _alone(tensor: keras.KerasTensor) -> tuple[int | None, ...]:
    """Return a tensor's shape for one image: windows of an image are several rows."""
    return (tensor.shape[0] or 1, *tensor.shape[1:])


def _matmul(call: Call) -> int | None:
    sides = (*_alone(call.outputs[0]), call.inputs[0].shape[-1])
    return None if None in sides else 2 * math.prod(sides)


def _scores(call: Call) -> int | None:
    """Queries times keys and scores times values: [N, T, heads, D] each, as in `keras.ops.dot_product_attention`."""
    query, key, value = (tensor.shape for tensor in call.inputs[:3])
    sides = (query[0] or 1, query[1], key[1], query[2], query[3] + value[3])
    return None if None in sides else 2 * math.prod(sides)


def _attention(call: Call) -> int | None:
    """Four projections, queries times keys, and scores times values."""
    layer, query, value = call.layer, *(tensor.shape for tensor in (*call.inputs, call.inputs[0])[:2])
    heads, keys, values = layer.num_heads, layer.key_dim, layer.value_dim
    if len(query) != 3 or query[1] is None or value[1] is None:
        return None
    projections = query[1] * heads * (query[2] * keys + values * call.outputs[0].shape[-1])
    projections += value[1] * heads * value[2] * (keys + values)
    return 2 * int(projections + query[1] * value[1] * heads * (keys + values))


_PRODUCTS: dict[str, Callable[[Call], int | None]] = {
    "DotProductAttention": _scores, "Matmul": _matmul, "MultiHeadAttention": _attention,
    "PositionEmbedding": lambda _: 0,
}  # fmt: skip
"""What multiplies matrices that are not all weights, or adds weights, by the class of the layer or operation."""


def total(flops: list[int | None]) -> int | None:
    """Return the sum of operations; None if one of them is unknown."""
    known = [number for number in flops if number is not None]
    return sum(known) if len(known) == len(flops) else None
