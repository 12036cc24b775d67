"""The classifier that AlexNet and ZF Net share: two fully connected layers of 4096, then 1000 classes."""

from __future__ import annotations

import keras
from keras import layers


def fully_connected(x: keras.KerasTensor) -> keras.KerasTensor:
    """Classify a feature map.

    Args:
        x: [N, H, W, C].

    Returns:
        [N, 1000] softmax.
    """
    x = layers.Flatten(name="flatten")(x)
    for number in (6, 7):
        x = layers.Dense(4096, activation="relu", name=f"fc{number}")(x)
        x = layers.Dropout(0.5, name=f"drop{number}")(x)
    return layers.Dense(1000, activation="softmax", name="predictions")(x)
