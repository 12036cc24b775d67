"""DeconvNet as modified backpropagation is DeconvNet by its definition, and neither the gradient nor guided."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from exporter.graph.network import Network
from exporter.graph.tensors import find_tensor
from exporter.look.backpropagation import class_scores, input_gradient, obstacle, run
from exporter.models.building import build
from exporter.recipe.backbones import BACKBONES
from tests.unit.exporter.small_models import token_model

Array = np.ndarray[Any, Any]
STEPS = (("conv1", 2, "SAME"), ("conv2", 1, "SAME"), ("conv3", 1, "VALID"))
POOL = (3, 2)


def pooling_model() -> keras.Model:
    """Return three convolutions with ReLU, fused and apart, and two overlapping pools of AlexNet's kind."""
    images = keras.Input((47, 47, 3), name="images")
    x = layers.Conv2D(8, 5, 2, "same", activation="relu", name="conv1")(images)
    x = layers.MaxPooling2D(*POOL, name="pool1")(x)
    x = layers.Activation("relu", name="relu2")(layers.Conv2D(12, 3, padding="same", name="conv2")(x))
    x = layers.MaxPooling2D(*POOL, name="pool2")(x)
    x = layers.ReLU(name="relu3")(layers.Conv2D(16, 3, name="conv3")(x))
    model = keras.Model(images, x)
    numbers = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(numbers.normal(0, 0.3, weight.shape))
    return model


def explicit(model: keras.Model, images: Array, seed: Any, *, adding: bool = True) -> Array:
    """Return DeconvNet by its definition: unpool by recorded switches, rectify, convolve with transposed filters."""
    kept, x = [], tf.constant(images)
    for number, (name, stride, padding) in enumerate(STEPS):
        kernel, bias = model.get_layer(name).weights
        entered = tf.shape(x)
        x = tf.nn.relu(tf.nn.conv2d(x, kernel.value, stride, padding) + bias.value)
        before, switches = tf.shape(x), None
        if number < 2:
            x, switches = tf.nn.max_pool_with_argmax(x, POOL[0], POOL[1], "VALID", include_batch_in_index=True)
        kept.append((kernel.value, stride, padding, entered, before, switches))
    back = seed(x).numpy()
    for kernel, stride, padding, entered, before, switches in reversed(kept):
        if switches is not None:
            unpooled = np.zeros(int(np.prod(before)), np.float32)
            if adding:
                np.add.at(unpooled, switches.numpy().ravel(), back.ravel())
            else:
                unpooled[switches.numpy().ravel()] = back.ravel()
            back = unpooled.reshape(before)
        back = tf.nn.conv2d_transpose(np.maximum(back, 0), kernel, entered, stride, padding).numpy()
    return np.asarray(back)


def apart(one: Array, other: Array) -> float:
    """Return the relative distance of two arrays."""
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))


@pytest.mark.parametrize("flat", [False, True], ids=["noise", "with flat areas, whose pools are ties"])
def test_deconvnet_by_definition_and_by_backpropagation_agree(flat: bool) -> None:
    """To 1e-6 where coinciding switches of overlapping pools add; gradient and guided are something else."""
    model = pooling_model()
    images = np.random.default_rng(1).normal(0, 1, (3, 47, 47, 3)).astype(np.float32)
    if flat:
        images[:, 8:40, 8:40] = 0.5
    seed = lambda maps: tf.one_hot(tf.fill(maps.shape[:3], 5), 16) * maps  # noqa: E731
    network = Network(model)
    found = {
        rule: np.asarray(input_gradient(network, tf.constant(images), model.outputs[0], seed, rule))
        for rule in ("deconvnet", "guided", "gradient")
    }
    defined = explicit(model, images, seed)
    assert np.abs(defined).max() > 0
    assert np.abs(found["deconvnet"] - defined).max() <= 1e-6 * np.abs(defined).max()
    assert apart(found["guided"], defined) > 0.2
    assert apart(found["gradient"], defined) > 0.2
    assert apart(found["guided"], found["gradient"]) > 0.2
    assert apart(explicit(model, images, seed, adding=False), defined) > 0.2


def test_layers_keep_their_activations() -> None:
    """A way back by a rule leaves the model as it was, and computes the same maps."""
    model = pooling_model()
    images = tf.random.stateless_normal((1, 47, 47, 3), (0, 1))
    before = model(images).numpy()
    input_gradient(Network(model), images, model.outputs[0], tf.identity, "guided")
    assert model.get_layer("conv1").activation is keras.activations.relu
    np.testing.assert_array_equal(model(images), before)


def branching_model() -> keras.Model:
    """Return blocks of all kinds: a nested model, a shortcut, branches, groups, a ReLU6, a classifier."""
    images = keras.Input((32, 32, 3), name="images")
    inner = keras.Input((16, 16, 8))
    nested = keras.Model(inner, layers.Conv2D(8, 3, padding="same", activation="relu")(inner), name="nested")
    x = layers.Conv2D(8, 3, 2, "same", name="stem")(images)
    x = layers.Activation("relu")(layers.BatchNormalization(name="bn")(x))
    x = layers.Add(name="sum")([x, nested(x)])
    side = layers.DepthwiseConv2D(3, padding="same", activation="relu", name="side")(x)
    x = layers.Concatenate(name="joined")([side, layers.AveragePooling2D(3, 1, "same")(x)])
    x = layers.ReLU(6.0, name="relu6")(layers.SeparableConv2D(16, 3, padding="same", name="separable")(x))
    x = layers.Conv2D(16, 3, padding="same", groups=2, activation="relu", name="grouped")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(images, layers.Dense(5, activation="softmax", name="predictions")(x))


def test_all_kinds_of_blocks_pass_back_their_own_gradient() -> None:
    """With positive weights nothing is cut off, so that the three rules agree through every kind of block."""
    model = branching_model()
    numbers = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(numbers.uniform(0.01, 0.1, weight.shape))
    network = Network(model)
    tensor = find_tensor(model, "grouped")
    images = tf.constant(numbers.uniform(0, 1, (2, 32, 32, 3)).astype(np.float32))
    assert obstacle(network, model.outputs[0]) is None
    plain, *others = (
        np.asarray(input_gradient(network, images, tensor, tf.ones_like, rule))
        for rule in ("gradient", "deconvnet", "guided")
    )  # fmt: skip
    assert np.abs(plain).min() > 0
    for other in others:
        np.testing.assert_allclose(other, plain, rtol=1e-5)


def test_a_class_is_explained_before_its_softmax() -> None:
    """The logits, whose gradient does not vanish where the network is sure."""
    model = branching_model()
    scores = class_scores(Network(model))
    assert scores is model.outputs[0]
    images = tf.random.stateless_uniform((2, 32, 32, 3), (0, 1))
    (logits,) = run(Network(model), {id(model.inputs[0]): images}, [scores], scores=True)
    np.testing.assert_allclose(tf.nn.softmax(logits), model(images), rtol=1e-5)
    assert np.abs(np.sum(logits, axis=1) - 1).min() > 1e-3
    assert class_scores(Network(pooling_model())) is None


@pytest.mark.parametrize("name", ["AlexNet", "VGG16", "ResNet50", "MobileNet"])
def test_networks_with_relu_have_a_way_back(name: str) -> None:
    """However their ReLUs are written: fused, as Activation, as ReLU(6)."""
    row = BACKBONES[name]
    network = Network(build(row, None, row.preprocessing, include_top=name not in {"AlexNet", "VGG16"}).model)
    assert obstacle(network, network.model.outputs[0]) is None


@pytest.mark.parametrize(
    ("name", "what"),
    [("EfficientNetB0", "the silu of "), ("ConvNeXtTiny", "the LayerNorm"), ("MobileNetV3Small", "the hard_silu of ")],
)
def test_networks_without_relu_have_none(name: str, what: str) -> None:
    """The first obstacle is named."""
    row = BACKBONES[name]
    network = Network(build(row, None, row.preprocessing, include_top=False).model)
    assert str(obstacle(network, network.model.outputs[0])).startswith(what)


def test_leaky_relus_and_transformers_have_none() -> None:
    """A slope is no ReLU; attention is no convolution."""
    images = keras.Input((8, 8, 3))
    for layer in (layers.LeakyReLU(name="leaky"), layers.ReLU(negative_slope=0.1, name="sloping")):
        model = keras.Model(images, layer(layers.Conv2D(2, 3)(images)))
        assert str(obstacle(Network(model), model.outputs[0])).endswith(layer.name)
    tokens = token_model()
    assert obstacle(Network(tokens), tokens.outputs[0]) is not None
