"""A backbone that computes in no time, named as `tests.unit.exporter.sweep.tiny:make`."""

from __future__ import annotations

import keras
from keras import layers


def make() -> keras.Model:
    """Return a network of three sizes of maps at 32x32 pixels."""
    images = keras.Input((32, 32, 3), name="images")
    x = layers.Conv2D(8, 3, 2, "same", activation="relu", name="stem")(images)
    y = layers.Conv2D(8, 3, padding="same", activation="relu", name="body")(x)
    x = layers.Add(name="sum")([x, y])
    x = layers.Conv2D(16, 3, 2, "same", activation="relu", name="head")(x)
    x = layers.Conv2D(16, 3, 2, "same", activation="relu", name="tail")(x)
    return keras.Model(images, layers.GlobalAveragePooling2D(name="pool")(x), name="tiny")
