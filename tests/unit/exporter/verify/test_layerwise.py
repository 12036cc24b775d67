"""A model computed call by call gives what Keras gives, and keeps less."""

from __future__ import annotations

import weakref
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from exporter.verify.keras_reference import compute
from tests.unit.exporter.small_models import small_model

IMAGES = np.random.default_rng(0).uniform(0, 255, (3, 8, 8, 3)).astype(np.float32)


class Noted(layers.Layer):  # type: ignore[misc] # Keras has no types
    """Passes numbers on, and notes how many tensors that it gave before are still there."""

    given: list[weakref.ref[Any]]
    most = 0

    def __init__(self) -> None:
        super().__init__()
        self.given = []

    def call(self, numbers: tf.Tensor) -> tf.Tensor:
        """Same shape."""
        if isinstance(numbers, tf.Tensor) and hasattr(numbers, "numpy"):
            self.most = max(self.most, sum(ref() is not None for ref in self.given))
        passed = numbers + 1.0
        if hasattr(passed, "numpy"):
            self.given.append(weakref.ref(passed))
        return passed


def several() -> keras.Model:
    """Return a model with what calls can have: training, a layer called twice, operations, a model within, two ends."""
    images = keras.Input((8, 8, 3))
    twice = layers.Conv2D(3, 3, padding="same")
    x = layers.BatchNormalization()(layers.Dropout(0.5)(twice(images)))
    inner = keras.Input((8, 8, 3))
    within = keras.Model(inner, layers.Dropout(0.5)(layers.Conv2D(4, 1)(inner)))
    left, right = ops.split(within(twice(ops.relu(x))), 2, axis=-1)
    end = layers.Concatenate()([left, right, layers.Multiply()([left, left])])
    return keras.Model(images, {"early": x, "end": end, "right": right})


@pytest.mark.parametrize("model", [several(), small_model()], ids=["several", "small"])
def test_it_is_what_keras_gives_bit_by_bit(model: keras.Model) -> None:
    """Dropout is off, statistics are those of training, and every output is there under its name."""
    if not isinstance(model.output, dict):
        model = keras.Model(model.input, {layer.name: layer.output for layer in model.layers[1:]})
    expected = model(IMAGES, training=False)
    found = compute(model, IMAGES)
    assert set(found) == set(expected)
    for name, vectors in expected.items():
        np.testing.assert_array_equal(found[name], np.asarray(vectors))


def test_tensors_go_after_the_last_call_that_takes_them() -> None:
    """However deep the model is, only what a later call takes is kept."""
    noted = Noted()
    images = keras.Input((8, 8, 3))
    first = x = noted(images)
    for _ in range(10):
        x = noted(x)
    model = keras.Model(images, {"end": layers.Add()([first, x])})
    np.testing.assert_allclose(compute(model, IMAGES)["end"], 2 * IMAGES + 12, rtol=1e-6)
    assert noted.most == 2  # the first one, which the end takes, and the one before
