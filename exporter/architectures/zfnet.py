"""ZF Net: Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", 2013 (arXiv:1311.2901), figure 3.

AlexNet with a finer first layer (7x7, stride 2) and without groups. The convolution that gives figure 3's 110 positions
from 224 pixels has one pixel of padding, and its 55 and 13 come of windows that reach over the edge. Contrast
normalisation follows the first two poolings; the paper gives no formula, so it is AlexNet's.
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
    x = layers.ZeroPadding2D(1, name="pad1")(images)
    x = layers.Conv2D(96, 7, 2, activation="relu", name="conv1")(x)
    x = layers.MaxPooling2D(3, 2, "same", name="pool1")(x)
    x = LocalResponseNormalization(name="norm1")(x)
    x = layers.Conv2D(256, 5, 2, activation="relu", name="conv2")(x)
    x = layers.MaxPooling2D(3, 2, "same", name="pool2")(x)
    x = LocalResponseNormalization(name="norm2")(x)
    for number, filters in ((3, 384), (4, 384), (5, 256)):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"conv{number}")(x)
    x = layers.MaxPooling2D(3, 2, name="pool5")(x)
    return keras.Model(images, fully_connected(x) if include_top else x, name="zfnet")
