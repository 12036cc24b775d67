"""The tensors that a network can be cut at, with what a cut at each costs and sees."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import keras
from keras import layers

from exporter.graph.cost import call_flops, total
from exporter.graph.network import Call, Network, bits, ends_of, order, place
from exporter.graph.tensors import shortest_ref


@dataclass(frozen=True, slots=True)
class Span:
    """The pixels that a position sees along one axis.

    Attributes:
        stride: Pixels from one position to the next.
        first: First pixel that position 0 sees; negative within the padding.
        last: Last pixel that position 0 sees.
    """

    stride: Fraction = Fraction(1)
    first: Fraction = Fraction(0)
    last: Fraction = Fraction(0)

    @property
    def size(self) -> int:
        """Number of pixels."""
        return int(self.last - self.first) + 1

    def windowed(self, size: int, stride: int, padding: int) -> Span:
        """Return the span after a sliding window.

        Args:
            size: Positions in the window, including dilation.
            stride: Positions from one window to the next.
            padding: Positions by which the first window begins before the first position.
        """
        first = self.first - self.stride * padding
        return Span(self.stride * stride, first, self.last + self.stride * (size - 1 - padding))

    def enlarged(self, factor: int) -> Span:
        """Return the span after an enlargement that repeats positions."""
        stride = self.stride / factor
        return Span(stride, self.first - stride * (factor - 1), self.last)


@dataclass(frozen=True, slots=True)
class Field:
    """The receptive field of a tensor's positions.

    Attributes:
        spans: Along height and along width; None once the tensor has no positions.
        whole: Whether the whole image is seen: after global pooling, and where a gate (squeeze and excite) multiplies
            each position by a value computed from all of them.
        known: Whether all layers up to here are of known kinds.
    """

    spans: tuple[Span, Span] | None = (Span(), Span())
    whole: bool = False
    known: bool = True

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width in pixels, gates ignored; None without positions or if unknown."""
        return (self.spans[0].size, self.spans[1].size) if self.known and self.spans else None

    @property
    def stride(self) -> tuple[Fraction, Fraction] | None:
        """Vertical and horizontal pixels per position; None without positions or if unknown."""
        return (self.spans[0].stride, self.spans[1].stride) if self.known and self.spans else None

    def over(self, height: Span, width: Span) -> Field:
        """Return the field with other spans."""
        return replace(self, spans=(height, width))


PIXELS = Field()
EVERYTHING = Field(spans=None, whole=True)
TOKENS = Field(spans=None)
"""Of patches in a row: each sees its own patch until the first attention, and then the whole image."""
UNKNOWN = Field(spans=None, known=False)


def merged(fields: Iterable[Field]) -> Field:
    """Return the union of the fields of several tensors, position by position."""
    several = list(fields)
    if not all(field.known for field in several):
        return UNKNOWN
    spatial = [field.spans for field in several if field.spans is not None]
    whole = any(field.whole for field in several)
    if not spatial:
        return Field(spans=None, whole=whole)
    axes = [_union([spans[axis] for spans in spatial]) for axis in range(2)]
    if axes[0] is None or axes[1] is None:
        return UNKNOWN
    return Field((axes[0], axes[1]), whole=whole)


def _union(spans: list[Span]) -> Span | None:
    if len({span.stride for span in spans}) > 1:
        return None
    return Span(spans[0].stride, min(span.first for span in spans), max(span.last for span in spans))


_WINDOWED = (
    layers.Conv2D,
    layers.DepthwiseConv2D,
    layers.SeparableConv2D,
    layers.MaxPooling2D,
    layers.AveragePooling2D,
)
_WHOLE = (layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D, layers.Flatten)
AUGMENTING = (
    "AugMix", "CutMix", "MixUp", "RandAugment", "RandomBrightness", "RandomColorDegeneration",
    "RandomColorJitter", "RandomContrast", "RandomElasticTransform", "RandomErasing", "RandomFlip",
    "RandomGaussianBlur", "RandomGrayscale", "RandomHue", "RandomInvert", "RandomPerspective", "RandomPosterization",
    "RandomRotation", "RandomSaturation", "RandomSharpness", "RandomShear", "RandomTranslation", "RandomZoom",
)  # fmt: skip
"""Layers that change nothing in inference, by class name."""
# Layers that act on each position separately, by class name: Keras does not export those of ConvNeXt and
# InceptionResNetV2, nor the operations that keras.ops and expressions such as x + y leave in a model.
_POINTWISE = (
    "Activation", "Add", "AlphaDropout", "Average", "BatchNormalization", "Cast", "Clip", "Concatenate",
    "CustomScaleLayer", "Dense", "Divide", "Dropout", "ELU", "GaussianDropout", "GaussianNoise", "Gelu", "HardSigmoid",
    "HardSwish", "Identity", "InputLayer", "LayerScale", "LeakyReLU", "LocalResponseNormalization", "Maximum",
    "Minimum", "Multiply", "Normalization", "PReLU", "ReLU", "Relu", "Relu6", "Rescaling", "Sigmoid", "Silu",
    "SpatialDropout2D", "StochasticDepth", "Subtract", "Tanh", "TrueDivide", *AUGMENTING,
)  # fmt: skip


def fields(network: Network, entering: Field | None = None) -> list[Field]:
    """Return the receptive field of each call's outputs, in the order of the calls.

    Args:
        network: A model with one input.
        entering: The field of that input; None for that of images, or of a text's tokens.
    """
    if entering is None:
        entering = TOKENS if len(network.model.inputs[0].shape) == 2 else PIXELS
    found: list[Field] = []
    for call in network.calls:
        seen = [found[network.position(tensor)] for tensor in call.inputs]
        found.append(_through(call, merged(seen) if seen else entering))
    return found


def _through(call: Call, seen: Field) -> Field:
    layer = call.layer
    if isinstance(layer, keras.Model):
        inner = Network(layer)
        return fields(inner, seen)[inner.position(inner.model.outputs[0])] if len(layer.outputs) == 1 else UNKNOWN
    if not seen.known or _makes_tokens(call) or (call.kind.endswith("Embedding") and not seen.whole):
        return TOKENS if call.kind.endswith("Embedding") else UNKNOWN
    if isinstance(layer, layers.LayerNormalization):
        return seen if _axes(layer) == [3] or seen.spans is None else UNKNOWN
    if call.kind in _POINTWISE:
        return seen
    if isinstance(layer, _WHOLE) or seen.spans is None:
        return EVERYTHING
    height, width = (_along(call, axis, span) for axis, span in enumerate(seen.spans))
    return UNKNOWN if height is None or width is None else seen.over(height, width)


def _makes_tokens(call: Call) -> bool:
    return bool(call.inputs) and len(call.inputs[0].shape) == 4 and len(call.outputs[0].shape) == 3


def _axes(layer: keras.Layer) -> list[int]:
    return [axis % 4 for axis in ([layer.axis] if isinstance(layer.axis, int) else layer.axis)]


def _along(call: Call, axis: int, span: Span) -> Span | None:
    layer = call.layer
    if isinstance(layer, layers.ZeroPadding2D):
        return span.windowed(1, 1, layer.padding[axis][0])
    if isinstance(layer, layers.Cropping2D):
        return span.windowed(1, 1, -layer.cropping[axis][0])
    if isinstance(layer, layers.UpSampling2D) and layer.interpolation == "nearest":
        return span.enlarged(layer.size[axis])
    if isinstance(layer, _WINDOWED) and layer.data_format == "channels_last":
        return _windowed(layer, axis, span, call.inputs[0].shape[1 + axis])
    return None


def _windowed(layer: keras.Layer, axis: int, span: Span, positions: int | None) -> Span:
    size = layer.kernel_size[axis] if hasattr(layer, "kernel_size") else layer.pool_size[axis]
    size = (size - 1) * getattr(layer, "dilation_rate", (1, 1))[axis] + 1
    stride = layer.strides[axis]
    if layer.padding != "same":
        return span.windowed(size, stride, 0)
    # The odd pixel of padding goes to the end; an unknown size counts as one that the stride divides.
    last = (positions or stride) - 1
    missing = last // stride * stride + size - (last + 1)
    return span.windowed(size, stride, max(missing, 0) // 2)


_MERGES = ("Add", "Concatenate", "Average")
_FOLLOWERS = (
    "Activation", "BatchNormalization", "CustomScaleLayer", "ELU", "HardSwish", "LayerNormalization", "LayerScale",
    "LeakyReLU", "PReLU", "ReLU", "Relu6", "StochasticDepth",
)  # fmt: skip
_NOTHING_NEW = ("Cast", "Dropout", "InputLayer", "Rescaling", "Normalization", "ZeroPadding2D", *AUGMENTING)


@dataclass(frozen=True, slots=True)
class CutPoint:
    """One tensor that a network can be cut at.

    Attributes:
        index: The layer's position in `model.layers`, which also names the layer. None for a layer of a model within
            the model, and for an operation that is not a layer, such as the sums that ConvNeXt writes as `x + y`.
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
    places = {where: index for index, where in enumerate(order(model))}
    points = []
    for layer in network.model.operations:
        calls = network.calls_of(layer)
        for call in calls:
            at = network.position(call.outputs[0])
            needed = network.needed[at]
            # Token ids, which CLIP's pooling looks at again, are at hand everywhere.
            crossing = max(1, sum(not tensor.dtype.startswith("int") for tensor in network.crossing(needed)))
            points += [
                CutPoint(
                    index=places.get(place(layer)),
                    ref=_ref(call, output, calls),
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


def _ref(call: Call, output: int, calls: Sequence[Call]) -> str:
    """Return a tensor's name: that of the block which it is the output of, where a sum or the like ends the block."""
    ends = () if isinstance(call.layer, keras.Layer) else ends_of(call.outputs[output])
    if not ends:
        return shortest_ref(call, output, calls)
    where, number, index = ends[0]
    return f"{where}:{number}:{index}" if index else f"{where}:{number}" if number else where


def default_cut(points: Sequence[CutPoint]) -> CutPoint | None:
    """Return the deepest feature map, or else the deepest tokens, that cross as a single tensor; None without either.

    Tensors after global pooling belong to the classifier, also where it is written as convolutions on a 1x1 map:
    `conv_preds` of MobileNet and `logits` of MobileNetV3 are the scores of 1000 classes.

    Args:
        points: All cut points of a network, in the order of its layers.
    """
    clean = [point for point in points if point.block_end and point.crossing == 1]
    tokens = [point for point in clean if len(point.shape) == 3]
    maps = [point for point in clean if _is_map(point)]
    found = tokens or maps  # a transformer may begin with convolutions, and no network with tokens ends in maps
    return found[-1] if found else None


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
