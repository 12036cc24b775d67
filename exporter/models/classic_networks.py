"""AlexNet, ZF Net and GoogLeNet as functional Keras models, after their papers.

Every builder takes an input size in pixels and returns a randomly initialised network that takes float32 [N, height,
width, 3] minus the mean of each channel. With `include_top` it ends in the ImageNet classifier `predictions`, [N,
1000] softmax.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from keras import layers


@keras.saving.register_keras_serializable(package="microtome")
class LocalResponseNormalization(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
    """Divide each value by (k + alpha * sum of squares over `2 * radius + 1` channels around it) ** beta.

    Input and output are float [N, H, W, C]. The defaults are AlexNet's (section 3.3): n = 5, k = 2, alpha = 1e-4,
    beta = 0.75.
    """

    def __init__(
        self, *, radius: int = 2, k: float = 2.0, alpha: float = 1e-4, beta: float = 0.75, **options: object
    ) -> None:
        super().__init__(**options)
        self.radius, self.k, self.alpha, self.beta = radius, k, alpha, beta

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Normalise."""
        return tf.nn.local_response_normalization(inputs, self.radius, self.k, self.alpha, self.beta)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the input's shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return the arguments for `from_config`."""
        own = {"radius": self.radius, "k": self.k, "alpha": self.alpha, "beta": self.beta}
        return {**super().get_config(), **own}


def alexnet(height: int, width: int, *, include_top: bool) -> keras.Model:
    """Krizhevsky, Sutskever and Hinton, "ImageNet Classification with Deep Convolutional Neural Networks", 2012.

    The paper's halves on two GPUs are two groups of channels here. The paper says 224x224 pixels, but its first layer
    gives 55x55 positions only from 227x227, the size in common use.

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
    return keras.Model(images, _fully_connected(x) if include_top else x, name="alexnet")


def zfnet(height: int, width: int, *, include_top: bool) -> keras.Model:
    """Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", 2013 (arXiv:1311.2901), figure 3.

    AlexNet with a finer first layer (7x7, stride 2) and without groups. One pixel of padding gives figure 3's 110
    positions from 224 pixels; its 55 and 13 come from windows that extend over the edge. Contrast normalisation
    follows the first two poolings; the paper gives no formula, so it is AlexNet's.

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
    return keras.Model(images, _fully_connected(x) if include_top else x, name="zfnet")


def _fully_connected(x: keras.KerasTensor) -> keras.KerasTensor:
    """Return the classifier of AlexNet and ZF Net, [N, 1000] softmax, on a feature map [N, H, W, C]."""
    x = layers.Flatten(name="flatten")(x)
    for number in (6, 7):
        x = layers.Dense(4096, activation="relu", name=f"fc{number}")(x)
        x = layers.Dropout(0.5, name=f"drop{number}")(x)
    return layers.Dense(1000, activation="softmax", name="predictions")(x)


class Module(NamedTuple):
    """One inception module: the widths of its branches, as the columns of table 1."""

    name: str
    one: int
    three_reduce: int
    three: int
    five_reduce: int
    five: int
    pool: int


STAGES = (
    (Module("3a", 64, 96, 128, 16, 32, 32), Module("3b", 128, 128, 192, 32, 96, 64)),
    (
        Module("4a", 192, 96, 208, 16, 48, 64),
        Module("4b", 160, 112, 224, 24, 64, 64),
        Module("4c", 128, 128, 256, 24, 64, 64),
        Module("4d", 112, 144, 288, 32, 64, 64),
        Module("4e", 256, 160, 320, 32, 128, 128),
    ),
    (Module("5a", 256, 160, 320, 32, 128, 128), Module("5b", 384, 192, 384, 48, 128, 128)),
)


def googlenet(height: int, width: int, *, include_top: bool) -> keras.Model:
    """Szegedy et al., "Going Deeper with Convolutions", 2014 (arXiv:1409.4842), table 1.

    The two auxiliary classifiers serve training only and are left out.
    """
    images = keras.Input((height, width, 3), name="input_layer")
    x = _conv(images, 64, 7, "conv1", stride=2)
    x = layers.MaxPooling2D(3, 2, "same", name="pool1")(x)
    x = LocalResponseNormalization(name="norm1")(x)
    x = _conv(x, 64, 1, "conv2_reduce")
    x = _conv(x, 192, 3, "conv2")
    x = LocalResponseNormalization(name="norm2")(x)
    for number, modules in enumerate(STAGES, start=2):
        x = layers.MaxPooling2D(3, 2, "same", name=f"pool{number}")(x)
        for module in modules:
            x = _inception(x, module)
    if include_top:
        x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
        x = layers.Dropout(0.4, name="dropout")(x)
        x = layers.Dense(1000, activation="softmax", name="predictions")(x)
    return keras.Model(images, x, name="googlenet")


def _inception(x: keras.KerasTensor, module: Module) -> keras.KerasTensor:
    name = f"inception_{module.name}"
    one = _conv(x, module.one, 1, f"{name}_1x1")
    three = _conv(_conv(x, module.three_reduce, 1, f"{name}_3x3_reduce"), module.three, 3, f"{name}_3x3")
    five = _conv(_conv(x, module.five_reduce, 1, f"{name}_5x5_reduce"), module.five, 5, f"{name}_5x5")
    pooled = layers.MaxPooling2D(3, 1, "same", name=f"{name}_pool")(x)
    return layers.Concatenate(name=name)([one, three, five, _conv(pooled, module.pool, 1, f"{name}_pool_proj")])


def _conv(x: keras.KerasTensor, filters: int, kernel: int, name: str, stride: int = 1) -> keras.KerasTensor:
    return layers.Conv2D(filters, kernel, stride, "same", activation="relu", name=name)(x)


BUILDERS: dict[str, Callable[..., keras.Model]] = {"AlexNet": alexnet, "ZFNet": zfnet, "GoogLeNet": googlenet}
