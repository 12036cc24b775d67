"""Keras models that are built in no time, dressed as backbones."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from exporter.models.building import Built
from exporter.recipe.backbones import BACKBONES
from exporter.recipe.preprocessing import input_spec
from exporter.recipe.resolved import ModelRecipe, OutputRecipe
from microtome.manifest import InputSpec

PIXELS = input_spec(8, 8, shortest_side=9)
MAP = OutputRecipe("map", "conv", "none")
VECTOR = OutputRecipe("vector", "conv", "avg")
DEEP = OutputRecipe("deep", "deeper", "max")


def small_model(seed: int = 0) -> keras.Model:
    """Return an 8x8 model of a strided convolution, a normalisation, a depthwise convolution and a classifier."""
    images = keras.Input((8, 8, 3), name="input_layer")
    x = layers.Conv2D(4, 3, 2, "same", use_bias=False, name="conv")(images)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.DepthwiseConv2D(3, padding="same", name="deeper")(x)
    x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
    model = keras.Model(images, layers.Dense(10, name="predictions")(x), name="small")
    numbers = np.random.default_rng(seed)
    # Positive, so that the moving variances are too.
    model.set_weights([numbers.uniform(0.1, 1.0, weight.shape) for weight in model.get_weights()])
    return model


@keras.saving.register_keras_serializable(package="tests")
class ClassToken(layers.Layer):  # type: ignore[misc] # Keras has no types
    """Puts a learnt token before those of the patches."""

    def build(self, shape: tuple[int | None, ...]) -> None:
        """Make the token."""
        self.token = self.add_weight(shape=(1, 1, shape[-1]), initializer="glorot_uniform", name="token")

    def call(self, tokens: tf.Tensor) -> tf.Tensor:
        """[N, T, C] to [N, 1 + T, C]."""
        return tf.concat([tf.repeat(self.token, tf.shape(tokens)[0], axis=0), tokens], axis=1)

    def compute_output_shape(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """One token more."""
        return shape[0], None if shape[1] is None else shape[1] + 1, shape[2]


def token_model() -> keras.Model:
    """Return a vision transformer of one block: 8x8 pixels in four patches and a class token, of six numbers each."""
    images = keras.Input((8, 8, 3), name="input_layer")
    x = layers.Reshape((4, 6), name="patches")(layers.Conv2D(6, 4, 4, name="embed")(images))
    x = ClassToken(name="class_token")(x)
    normal = layers.LayerNormalization(name="norm")(x)
    x = layers.Add(name="attended")([x, layers.MultiHeadAttention(2, 3, name="attention")(normal, normal)])
    x = layers.Add(name="mixed")([x, layers.Dense(6, activation="gelu", name="mix")(x)])
    return keras.Model(images, layers.LayerNormalization(name="encoded")(x), name="tokens")


def strangely_named_model() -> keras.Model:
    """Return an 8x8 model whose layers have names that Keras allows and TensorFlow's scopes do not."""
    images = keras.Input((8, 8, 3), name="the images")
    x = layers.Conv2D(4, 3, 2, "same", name="block1 conv a")(images)
    x = layers.Add(name="合計")([layers.Conv2D(4, 1, name="畳み込2")(x), layers.ReLU(name="活性化2")(x)])
    shared = layers.Dense(4, name="stem:0")
    return keras.Model(images, shared(shared(x)), name="strange names")


def small_backbone(seed: int = 0) -> Built:
    """Return a small model that is scaled the way MobileNet is."""
    return Built(BACKBONES["MobileNet"], small_model(seed), "random", "made for a test")


def small_recipe(*outputs: OutputRecipe, pixels: InputSpec = PIXELS) -> ModelRecipe:
    """Return a recipe for `small_backbone`."""
    outputs = outputs or (VECTOR, DEEP)
    return ModelRecipe("small", "MobileNet", "random", pixels, outputs, outputs[-1].name, max_batch_size=4)
