"""Receptive fields, held against published figures and against what a gradient really reaches."""

from __future__ import annotations

from fractions import Fraction

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from exporter.graph.cut_points import Field, cut_points, fields
from exporter.graph.network import Network
from exporter.graph.tensors import find_tensor
from exporter.models.building import build
from exporter.recipe.backbones import BACKBONES

# The table in Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill 2019, as
# github.com/google-research/receptive_field has it in its README and RECEPTIVE_FIELD_TABLE.md; there they are called
# alexnet_v2, vgg_16, mobilenet_v1, resnet_v1_50, resnet_v1_101, inception_v3 and inception_resnet_v2.
PUBLISHED = {
    "AlexNet": ("pool5", 195, 32),
    "VGG16": ("block5_pool", 212, 32),
    "MobileNet": ("conv_pw_13_relu", 315, 32),
    "ResNet50": ("conv5_block3_out", 483, 32),
    "ResNet101": ("conv5_block3_out", 1027, 32),
    "InceptionV3": ("mixed10", 1311, 32),
    "InceptionResNetV2": ("conv_7b_ac", 3039, 32),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_receptive_fields_are_reproduced(name: str) -> None:
    """The last feature map of each network sees as many pixels, and strides as far, as its table says."""
    row = BACKBONES[name]
    model = build(row, None, row.preprocessing).model
    ref, size, stride = PUBLISHED[name]
    (point,) = [point for point in cut_points(model) if point.ref == ref]
    assert point.field.size == (size, size)
    assert point.field.stride == (Fraction(stride), Fraction(stride))
    assert not point.field.whole


def winding() -> keras.Model:
    """Return a network of all that bends a field: strides, dilation, paddings, branches, crops, enlargement."""
    images = keras.Input((41, 57, 3), name="images")
    x = layers.ZeroPadding2D(((2, 1), (0, 3)))(images)
    x = layers.Conv2D(2, (5, 3), 2, "same", name="strided")(x)
    side = layers.DepthwiseConv2D(3, padding="same", dilation_rate=3, name="dilated")(x)
    x = layers.Add(name="sum")([side, layers.AveragePooling2D(3, 1, "same")(x)])
    x = layers.SeparableConv2D(3, (1, 7), padding="valid", name="flat")(x)
    x = layers.Cropping2D(((1, 2), (0, 1)), name="cropped")(x)
    x = layers.AveragePooling2D(2, 2, "same", name="pooled")(x)
    x = layers.UpSampling2D(2, name="enlarged")(x)
    x = layers.Conv2D(2, 3, padding="same", name="smooth")(x)
    return keras.Model(images, x)


def reached(model: keras.Model, ref: str, row: int, column: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the first and last row and column of pixels that one position really depends on."""
    images = tf.ones((1, *model.inputs[0].shape[1:]))
    part = keras.Model(model.inputs[0], find_tensor(model, ref))
    with tf.GradientTape() as tape:
        tape.watch(images)
        at = tf.reduce_sum(part(images)[0, row, column])
    gradient = np.abs(tape.gradient(at, images)).sum(axis=(0, 3))
    rows, columns = np.flatnonzero(gradient.any(axis=1)), np.flatnonzero(gradient.any(axis=0))
    return (int(rows[0]), int(rows[-1])), (int(columns[0]), int(columns[-1]))


LAYERS = ["strided", "dilated", "sum", "flat", "cropped", "pooled", "smooth"]


@pytest.mark.parametrize("ref", LAYERS)
def test_field_is_what_a_gradient_reaches(ref: str) -> None:
    """For positions in the middle, to the pixel, on both axes: position i sees from stride * i + first to its last."""
    model = winding()
    for weight in model.weights:
        weight.assign(tf.ones_like(weight))  # positive, so that nothing cancels out
    network = Network(model)
    tensor = find_tensor(model, ref)
    seen = fields(network)[network.position(tensor)]
    row, column = (int(side) // 4 * 2 for side in tensor.shape[1:3])  # even, as enlargement repeats positions
    assert seen.spans is not None
    found = reached(model, ref, row, column)
    for (first, last), span, index in zip(found, seen.spans, (row, column), strict=True):
        # An enlarged position depends on which of its copies it is; the arithmetic covers the widest.
        slack = 2 if ref == "smooth" else 0
        assert 0 <= first - int(span.stride * index + span.first) <= slack
        assert 0 <= int(span.stride * index + span.last) - last <= slack


def last_field(x: keras.KerasTensor, images: keras.KerasTensor) -> Field:
    """Return what the last tensor of a model sees."""
    return cut_points(keras.Model(images, x))[-1].field


def test_gate_shows_as_seeing_the_whole_image_without_hiding_the_field() -> None:
    """Squeeze and excite multiplies by something of all pixels; the convolution's own field is told all the same."""
    images = keras.Input((8, 8, 3))
    x = layers.Conv2D(3, 3)(images)
    field = last_field(layers.Multiply()([x, layers.GlobalAveragePooling2D(keepdims=True)(x)]), images)
    assert (field.size, field.whole) == ((3, 3), True)


def test_pooled_space_sees_everything() -> None:
    """A vector has no positions and no field of its own."""
    images = keras.Input((8, 8, 3))
    field = last_field(layers.Dense(2)(layers.GlobalMaxPooling2D()(images)), images)
    assert (field.size, field.stride, field.whole, field.known) == (None, None, True, True)


def test_kind_of_layer_that_is_not_known_is_not_guessed() -> None:
    """An attention over positions makes the field unknown, and so does all that follows."""
    images = keras.Input((8, 8, 3))
    x = layers.Conv2D(3, 3)(layers.Permute((2, 1, 3))(images))
    assert not last_field(x, images).known
