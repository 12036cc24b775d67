"""Heat maps against their definitions, and against finite differences."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from exporter.graph.cut_points import UNKNOWN, Field, Span
from exporter.graph.network import Network
from exporter.graph.tensors import find_tensor
from exporter.look.heat import (
    channel_norm,
    class_target,
    eigen_cam,
    gradient,
    layer_cam,
    likeness_target,
    over_pixels,
)  # fmt: skip

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def network() -> Network:
    """Return a classifier in float64 whose `body` has a shortcut around it."""
    keras.utils.set_random_seed(0)
    images = keras.Input((12, 12, 3), dtype="float64")
    options = {"padding": "same", "dtype": "float64"}
    x = layers.Conv2D(4, 3, 2, activation="relu", name="stem", **options)(images)
    body = layers.Conv2D(4, 3, activation="relu", name="body", **options)(x)
    x = layers.Add(name="sum", dtype="float64")([x, body])
    x = layers.Conv2D(6, 3, activation="relu", name="top", **options)(x)
    x = layers.GlobalAveragePooling2D(dtype="float64")(x)
    return Network(keras.Model(images, layers.Dense(5, activation="softmax", dtype="float64", name="predictions")(x)))


def test_finite_differences_of_layer_cam(network: Network) -> None:
    """The gradient of a class score by each activation, in float64; what goes round the layer stays as it is."""
    images = tf.constant(np.random.default_rng(0).normal(0, 1, (1, 12, 12, 3)))
    tensor, scores = find_tensor(network.model, "body"), network.model.outputs[0]
    maps = np.asarray(keras.Model(network.model.inputs, tensor)(images))
    found = np.asarray(gradient(tf.constant(maps), class_target(network, images, tensor, scores, 3)))
    count, step = maps.size, 1e-6
    nudged = np.repeat(maps, 2 * count, axis=0)
    nudged.reshape(2, count, count)[:, range(count), range(count)] += [[step], [-step]]
    several = tf.repeat(images, 2 * count, axis=0)
    up, down = np.asarray(class_target(network, several, tensor, scores, 3)(tf.constant(nudged))).reshape(2, count)
    np.testing.assert_allclose(found.ravel(), (up - down) / (2 * step), atol=1e-8)
    assert np.abs(found).max() > 1e-3
    heat = layer_cam(network, images, tensor, class_target(network, images, tensor, scores, 3))
    np.testing.assert_allclose(heat, np.maximum((np.maximum(found, 0) * maps).sum(axis=-1), 0))


def test_finite_differences_of_likeness() -> None:
    """The gradient of a cosine of pooled vectors, which are float32."""
    numbers = np.random.default_rng(0)
    maps, other = numbers.uniform(0.5, 1, (1, 2, 3, 4)).astype(np.float32), numbers.uniform(0, 1, 4)
    target = likeness_target(other, "avg")
    found = np.asarray(gradient(tf.constant(maps), target)).ravel()
    for index in range(maps.size):
        nudge = np.zeros(maps.size, np.float32)
        nudge[index] = 0.05
        up, down = (float(target(tf.constant(maps + sign * nudge.reshape(maps.shape)))[0]) for sign in (1, -1))
        assert found[index] == pytest.approx((up - down) / 0.1, abs=2e-4)
    same = tf.constant(np.broadcast_to(other, (1, 2, 3, 4)), tf.float32)
    assert float(target(same)[0]) == pytest.approx(1)


@pytest.mark.parametrize("shape", [(5, 6, 4), (2, 3, 17)])
def test_eigen_cam_is_the_first_singular_vector(shape: tuple[int, int, int]) -> None:
    """Whichever side of the map is longer; the sign with the larger positive part."""
    maps = np.random.default_rng(0).normal(0.4, 1, shape)
    left, values, _ = np.linalg.svd(maps.reshape(-1, shape[2]), full_matrices=False)
    wanted = np.abs(left[:, 0] * values[0])
    found = eigen_cam(maps).ravel()
    shown = found > 0
    scale = found[shown][0] / wanted[shown][0]
    np.testing.assert_allclose(found[shown], scale * wanted[shown], rtol=1e-6)
    assert wanted[shown].sum() >= wanted[~shown].sum()
    np.testing.assert_allclose(channel_norm(maps), np.sqrt((maps**2).sum(axis=-1)))


def test_a_position_is_shown_at_the_centre_of_what_it_sees() -> None:
    """Also where padding shifts it; without a known field positions are spread evenly."""
    heat = np.zeros((3, 4))
    heat[1, 2] = 5
    span = Span(Fraction(4), Fraction(-1), Fraction(7))
    shown = over_pixels(heat, Field((span, span)), 16, 20)
    assert divmod(int(shown.argmax()), 20) == (7, 11)
    assert shown.max() == pytest.approx(1)
    assert shown[7, 9] == pytest.approx(0.5)
    spread = over_pixels(heat, UNKNOWN, 15, 20)
    assert divmod(int(spread.argmax()), 20) == (7, 12)
    assert not over_pixels(np.zeros((3, 4)), UNKNOWN, 15, 20).any()
