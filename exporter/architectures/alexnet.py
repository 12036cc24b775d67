"""AlexNet: Krizhevsky, Sutskever and Hinton, "ImageNet Classification with Deep Convolutional Neural Networks", 2012.

The two halves that the authors kept on two GPUs are two groups of channels here. They say 224x224 pixels, but their
first layer gives 55x55 positions only from 227x227, which is what everybody has used since.
"""

from __future__ import annotations

import keras
from keras import layers

from exporter.architectures.classifier import fully_connected
from exporter.architectures.local_response import LocalResponseNormalization


def build(height: int, width: int, *, include_top: bool) -> keras.Model:
    """Return the network, randomly initialised, that takes float32 [N, height, width, 3] less the mean of each channel.

    Args:
        height: Pixels.
        width: Pixels.
        include_top: Whether to end in the ImageNet classifier, `predictions`: [N, 1000] softmax.

    Raises:
        ValueError: The input is too small.
    """
    images = keras.Input((height, width, 3), name="input_layer")
    x = layers.Conv2D(96, 11, 4, activation="relu", name="conv1")(images)
    x = LocalResponseNormalization(name="norm1")(x)
    x = layers.MaxPooling2D(3, 2, name="pool1")(x)
    x = layers.Conv2D(256, 5, padding="same", groups=2, activation="relu", name="conv2")(x)
    x = LocalResponseNormalization(name="norm2")(x)
    x = layers.MaxPooling2D(3, 2, name="pool2")(x)
    x = layers.Conv2D(384, 3, padding="same", activation="relu", name="conv3")(x)
    x = layers.Conv2D(384, 3, padding="same", groups=2, activation="relu", name="conv4")(x)
    x = layers.Conv2D(256, 3, padding="same", groups=2, activation="relu", name="conv5")(x)
    x = layers.MaxPooling2D(3, 2, name="pool5")(x)
    return keras.Model(images, fully_connected(x) if include_top else x, name="alexnet")
