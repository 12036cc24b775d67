"""The facts of every tensor that a network can be cut at."""

from __future__ import annotations

from dataclasses import dataclass

import keras

from exporter.anatomy.calls import Call, Network, bits
from exporter.anatomy.field import Field
from exporter.anatomy.seeing import fields
from exporter.cost import call_flops, total
from exporter.tensors import shortest_ref

_MERGES = ("Add", "Concatenate", "Average")
_FOLLOWERS = (
    "Activation", "BatchNormalization", "CustomScaleLayer", "ELU", "HardSwish", "LayerNormalization", "LayerScale",
    "LeakyReLU", "PReLU", "ReLU", "Relu6", "StochasticDepth",
)  # fmt: skip
_NOTHING_NEW = ("Dropout", "InputLayer", "Rescaling", "Normalization", "ZeroPadding2D")


@dataclass(frozen=True, slots=True)
class CutPoint:
    """One tensor that a network can be cut at, and what a cut there means.

    Attributes:
        index: Of its layer in `model.layers`; also a name for the layer. None for an operation that is no layer, such
            as the sums of ConvNeXt, which its authors wrote as `x + y`.
        ref: What a recipe calls it: `layer`, or `layer:call` or `layer:call:output` where a bare name would not do.
        kind: The layer's class.
        shape: Of the tensor; None for the batch and for sizes that are not fixed.
        params: Weights of all that it needs.
        flops: Operations of all that it needs, for one image; None when not known.
        field: What its positions see.
        dimension: Of the vector after average pooling; None when the last axis is not fixed.
        crossing: How many tensors cross an edge that is cut here: 1 is a clean bottleneck.
        block_end: Whether it is where one would cut: clean, or a merge of branches, and not followed merely by a
            normalisation or an activation. (A concatenation is, in dense blocks: people cut at those.)
    """

    index: int | None
    ref: str
    kind: str
    shape: tuple[int | None, ...]
    params: int
    flops: int | None
    field: Field
    dimension: int | None
    crossing: int
    block_end: bool


def cut_points(model: keras.Model) -> list[CutPoint]:
    """Return every tensor that the model can be cut at, with its facts, in the order of the layers."""
    network = Network(model)
    seen = fields(network)
    flops = [call_flops(call) for call in network.calls]
    places = {id(layer): index for index, layer in enumerate(model.layers)}
    points = []
    for layer in network.model.operations:
        calls = network.calls_of(layer)
        for call in calls:
            at = network.position(call.outputs[0])
            needed = network.needed[at]
            crossing = len(network.crossing(needed))
            points += [
                CutPoint(
                    index=places.get(id(layer)),
                    ref=shortest_ref(call, output, calls),
                    kind=call.kind,
                    shape=tuple(tensor.shape),
                    params=_params(network, needed),
                    flops=total([flops[other] for other in bits(needed)]),
                    field=seen[at],
                    dimension=tensor.shape[-1] if len(tensor.shape) > 1 else None,
                    crossing=crossing,
                    block_end=_ends_block(network, at, crossing),
                )
                for output, tensor in enumerate(call.outputs)
            ]
    return points


def _params(network: Network, needed: int) -> int:
    weighted: dict[int, int] = {}
    for at in bits(needed):
        layer = network.calls[at].layer
        if id(layer) not in weighted:
            weighted[id(layer)] = layer.count_params() if isinstance(layer, keras.Layer) else 0
    return sum(weighted.values())


def _ends_block(network: Network, at: int, crossing: int) -> bool:
    call: Call = network.calls[at]
    takers = list(bits(network.takers[at]))
    followed = len(takers) == 1 and network.calls[takers[0]].kind in _FOLLOWERS and call.kind != "Concatenate"
    if followed or call.kind in _NOTHING_NEW:
        return False
    return crossing == 1 or (call.kind in _MERGES and crossing == 2)
