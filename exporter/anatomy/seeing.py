"""How each kind of layer changes what its tensor's positions see.

A kind that is not listed makes the field unknown: a figure that might be wrong is worse than none.
"""

from __future__ import annotations

import keras
from keras import layers

from exporter.anatomy.calls import Call, Network
from exporter.anatomy.field import EVERYTHING, PIXELS, UNKNOWN, Field, Span, merged

_WINDOWED = (
    layers.Conv2D,
    layers.DepthwiseConv2D,
    layers.SeparableConv2D,
    layers.MaxPooling2D,
    layers.AveragePooling2D,
)
_WHOLE = (layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D, layers.Flatten)
# Position by position. Some are not exported by Keras: those of ConvNeXt and of InceptionResNetV2, and the operations
# that keras.ops and expressions such as x + y leave in a model.
_POINTWISE = (
    "Activation", "Add", "AlphaDropout", "Average", "BatchNormalization", "Clip", "Concatenate", "CustomScaleLayer",
    "Dense", "Divide", "Dropout", "ELU", "GaussianDropout", "GaussianNoise", "Gelu", "HardSigmoid", "HardSwish",
    "Identity", "InputLayer", "LayerScale", "LeakyReLU", "LocalResponseNormalization", "Maximum", "Minimum", "Multiply",
    "Normalization", "PReLU", "ReLU", "Relu", "Relu6", "Rescaling", "Sigmoid", "Silu", "SpatialDropout2D",
    "StochasticDepth", "Subtract", "Tanh",
)  # fmt: skip


def fields(network: Network, entering: Field = PIXELS) -> list[Field]:
    """Return what the tensors of each call see, in the order of the calls.

    Args:
        network: A model of one input.
        entering: What that input sees.
    """
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
    if not seen.known:
        return UNKNOWN
    if isinstance(layer, layers.LayerNormalization):
        return seen if _axes(layer) == [3] or seen.spans is None else UNKNOWN
    if call.kind in _POINTWISE:
        return seen
    if isinstance(layer, _WHOLE) or seen.spans is None:
        return EVERYTHING
    height, width = (_along(call, axis, span) for axis, span in enumerate(seen.spans))
    return UNKNOWN if height is None or width is None else seen.over(height, width)


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
    # What does not divide evenly is padded at the end; at an unknown size, as at one that the stride divides.
    last = (positions or stride) - 1
    missing = last // stride * stride + size - (last + 1)
    return span.windowed(size, stride, max(missing, 0) // 2)
