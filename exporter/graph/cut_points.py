"""The tensors that a network can be cut at, with what a cut at each costs and sees."""

from collections.abc import Sequence
from dataclasses import dataclass

import keras

from exporter.graph.cost import call_flops, total
from exporter.graph.network import Call, Network, bits
from exporter.graph.receptive_field import Field, fields
from exporter.graph.tensors import shortest_ref

_MERGES = ("Add", "Concatenate", "Average")
_FOLLOWERS = (
    "Activation", "BatchNormalization", "CustomScaleLayer", "ELU", "HardSwish", "LayerNormalization", "LayerScale",
    "LeakyReLU", "PReLU", "ReLU", "Relu6", "StochasticDepth",
)  # fmt: skip
_NOTHING_NEW = ("Dropout", "InputLayer", "Rescaling", "Normalization", "ZeroPadding2D")


@dataclass(frozen=True, slots=True)
class CutPoint:
    """One tensor that a network can be cut at.

    Attributes:
        index: The layer's position in `model.layers`, which also names the layer. None for an operation that is not a
            layer, such as the sums that ConvNeXt writes as `x + y`.
        ref: The name in a recipe: `layer`, or `layer:call` or `layer:call:output` where the layer's name is ambiguous.
        kind: The layer's class.
        shape: The tensor's shape; None for the batch and for sizes that are not fixed.
        params: Weights needed to compute it.
        flops: Operations needed to compute it for one image; None if unknown.
        field: The receptive field of its positions.
        dimension: Length of the vector after average pooling; None if the last axis is not fixed.
        crossing: Number of tensors that a cut here severs; 1 is a clean bottleneck.
        block_end: Whether a block ends here: one tensor crosses, or branches merge, and the next layer is not just a
            normalisation or an activation. (After a concatenation it may be: dense blocks are cut there.)
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
    """Return every cut point of the model, in the order of the layers."""
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


def default_cut(points: Sequence[CutPoint]) -> CutPoint | None:
    """Return the deepest feature map that crosses as a single tensor; None if a network has none.

    Tensors after global pooling belong to the classifier, also where it is written as convolutions on a 1x1 map:
    `conv_preds` of MobileNet and `logits` of MobileNetV3 are the scores of 1000 classes.

    Args:
        points: All cut points of a network, in the order of its layers.
    """
    maps = [point for point in points if point.block_end and point.crossing == 1 and _is_map(point)]
    return maps[-1] if maps else None


def _is_map(point: CutPoint) -> bool:
    """Whether the tensor has positions; decided by its shape where the receptive field is unknown."""
    return len(point.shape) == 4 and (point.field.spans is not None or not point.field.known)


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
