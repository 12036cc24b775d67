"""Run a network so that its gradient is plain, DeconvNet's or guided: they differ only in how a ReLU passes back.

DeconvNet (Zeiler and Fergus 2013, arXiv:1311.2901) unpools by recorded switches, rectifies, and convolves with
transposed filters. That is backpropagation with `relu(g)` in place of ReLU's gradient `g * [x > 0]`; guided
backpropagation (Springenberg et al. 2014, arXiv:1412.6806) is `relu(g) * [x > 0]`. Every other step is its own
gradient: a fork adds, an overlapping pool adds too, a normalisation multiplies, biases drop out.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import keras
import tensorflow as tf
from keras import layers

from exporter.graph.cut_points import AUGMENTING
from exporter.graph.network import Call, Network, bits, place

Rule = Literal["gradient", "deconvnet", "guided"]
Seed = Callable[[tf.Tensor], tf.Tensor]
"""From a tensor's values to what is passed back from there, of the same shape."""

_RELU = (keras.activations.relu, keras.ops.relu, tf.nn.relu)
_RELU6 = (keras.activations.relu6, keras.ops.relu6, tf.nn.relu6)
_SCORES = (keras.activations.softmax, keras.activations.sigmoid, tf.nn.softmax, tf.nn.sigmoid)
# Layers whose gradient is all that a way back needs, by class name: Keras does not export all of them.
_PASSING = (
    "Activation", "Add", "AlphaDropout", "Average", "AveragePooling2D", "BatchNormalization", "Concatenate", "Conv2D",
    "Cropping2D", "CustomScaleLayer", "Dense", "DepthwiseConv2D", "Dropout", "Flatten", "GaussianDropout",
    "GaussianNoise", "GlobalAveragePooling2D", "GlobalMaxPooling2D", "Identity", "InputLayer",
    "LocalResponseNormalization", "MaxPooling2D", "Normalization", "Rescaling", "Reshape", "SeparableConv2D", "Softmax",
    "SpatialDropout2D", "Subtract", "TrueDivide", "UpSampling2D", "ZeroPadding2D", *AUGMENTING,
)  # fmt: skip


def run(
    network: Network,
    known: Mapping[int, tf.Tensor],
    wanted: Sequence[keras.KerasTensor],
    rule: Rule = "gradient",
    *,
    scores: bool = False,
) -> list[tf.Tensor]:
    """Compute tensors of a network in inference mode.

    Args:
        network: The network.
        known: Tensors with their values, by identity; what lies before them is not computed.
        wanted: What to compute.
        rule: How a ReLU passes a gradient back.
        scores: Leave out the softmax or sigmoid that the network ends in, whose gradient vanishes where it is sure.
    """
    tensors = dict(known)
    last = id(network.model.outputs[0])
    for index in bits(_between(network, known, wanted)):
        call = network.calls[index]
        ending = scores and any(id(tensor) == last for tensor in call.outputs)
        found = _computed(call, tensors, rule, ending=ending)
        tensors.update(zip(map(id, call.outputs), found, strict=True))
    return [tensors[id(tensor)] for tensor in wanted]


def input_gradient(network: Network, images: tf.Tensor, tensor: keras.KerasTensor, seed: Seed, rule: Rule) -> tf.Tensor:
    """Pass something at a tensor back to the network's input.

    Args:
        network: The network.
        images: What it takes, float [N, H, W, 3].
        tensor: Where the way back begins; of class scores, those before the softmax.
        seed: From the tensor's values to what is passed back.
        rule: How a ReLU passes it.

    Returns:
        float [N, H, W, 3].
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(images)
        (values,) = run(network, {id(network.model.inputs[0]): images}, [tensor], rule, scores=True)
    return tape.gradient(values, images, output_gradients=seed(values))


def obstacle(network: Network, tensor: keras.KerasTensor) -> str | None:
    """Return what leaves DeconvNet and guided backpropagation undefined on the way from a tensor to the pixels.

    Returns:
        Such as `the silu of block1a_activation`; None where the way has ReLUs and linear steps only.
    """
    last = network.model.outputs[0]
    for index in bits(network.needed[network.position(tensor)]):
        call = network.calls[index]
        if isinstance(call.layer, keras.Model):
            inner = Network(call.layer)
            found = next(filter(None, (obstacle(inner, output) for output in inner.model.outputs)), None)
            if found is not None:
                return found
            continue
        activation = getattr(call.layer, "activation", None)
        ending = tensor is last and call.outputs[0] is last and activation in _SCORES
        if _ceiling(call.layer) is None and not ending and activation not in {None, keras.activations.linear}:
            return f"the {getattr(activation, '__name__', 'activation')} of {place(call.layer)}"
        if _ceiling(call.layer) is None and call.kind not in _PASSING:
            return f"the {call.kind} {place(call.layer)}"
    return None


def class_scores(network: Network) -> keras.KerasTensor | None:
    """Return the tensor of a network's class scores, [N, classes]; None where it ends without a classifier."""
    (tensor, *_) = network.model.outputs
    call = network.calls[network.position(tensor)]
    ends = isinstance(call.layer, layers.Dense | layers.Softmax) or getattr(call.layer, "activation", None) in _SCORES
    return tensor if ends and len(tensor.shape) == 2 and (tensor.shape[1] or 0) > 1 else None


def _between(network: Network, known: Mapping[int, Any], wanted: Sequence[keras.KerasTensor]) -> int:
    """Return the calls that lead from known tensors to wanted ones, as a bit mask."""
    mask, waiting = 0, list(wanted)
    while waiting:
        tensor = waiting.pop()
        if id(tensor) not in known and not mask >> network.position(tensor) & 1:
            mask |= 1 << network.position(tensor)
            waiting += network.calls[network.position(tensor)].inputs
    return mask


def _computed(call: Call, tensors: Mapping[int, Any], rule: Rule, *, ending: bool) -> list[Any]:
    layer = call.layer
    if isinstance(layer, keras.Model):
        inner = Network(layer)
        starts = zip(map(id, inner.model.inputs), (tensors[id(tensor)] for tensor in call.inputs), strict=True)
        return run(inner, dict(starts), inner.model.outputs, rule, scores=ending)
    if ending and isinstance(layer, layers.Softmax):
        return [tensors[id(call.inputs[0])]]
    if ending and getattr(layer, "activation", None) in _SCORES:
        with _activation(layer, keras.activations.linear):
            return call.compute(tensors)
    ceiling = _ceiling(layer)
    if rule == "gradient" or ceiling is None:
        return call.compute(tensors)
    relu = _relu(ceiling, rule)
    if not hasattr(layer, "activation"):
        return [relu(tensors[id(call.inputs[0])])]
    with _activation(layer, relu):
        return call.compute(tensors)


@contextlib.contextmanager
def _activation(layer: keras.Layer, function: Callable[[Any], Any]) -> Iterator[None]:
    own, layer.activation = layer.activation, function
    try:
        yield
    finally:
        layer.activation = own


def _ceiling(layer: keras.Operation) -> float | None:
    """Return the largest value that a layer's ReLU lets through, such as 6; None for a layer without a ReLU."""
    kind, activation = type(layer).__name__, getattr(layer, "activation", None)
    if isinstance(layer, layers.ReLU):
        plain = not layer.negative_slope and not layer.threshold
        return (math.inf if layer.max_value is None else float(layer.max_value)) if plain else None
    if kind == "Relu6" or activation in _RELU6:
        return 6.0
    return math.inf if kind == "Relu" or activation in _RELU else None


def _relu(ceiling: float, rule: Rule) -> Callable[[tf.Tensor], tf.Tensor]:
    def relu(inputs: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        outputs = tf.nn.relu(inputs)
        if ceiling < math.inf:
            outputs = tf.minimum(outputs, tf.cast(ceiling, inputs.dtype))

        def back(gradient: tf.Tensor) -> tf.Tensor:
            passed = tf.nn.relu(gradient)
            if rule == "deconvnet":  # what the ReLU cut off on the way there does not matter
                return passed
            return tf.where((inputs > 0) & (inputs < tf.cast(ceiling, inputs.dtype)), passed, tf.zeros_like(passed))

        return outputs, back

    found: Callable[[tf.Tensor], tf.Tensor] = tf.custom_gradient(relu)
    return found
