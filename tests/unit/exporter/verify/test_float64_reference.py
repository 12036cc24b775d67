"""Images of which float32 rounds off much are held to float64; nothing else is let through with them."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from exporter.errors import VerificationFailed
from exporter.head.slicing import cut
from exporter.models.building import Built
from exporter.recipe.backbones import BACKBONES
from exporter.verify.checks import require
from exporter.verify.keras_reference import Float64Reference, in_float64, reference
from exporter.verify.sample_images import relative_errors, sample_pixels
from exporter.verify.verification import EQUALITY, verify
from tests.unit.exporter.small_models import VECTOR, small_backbone, small_model, small_recipe
from tests.unit.exporter.verify.test_verification import written

PIXELS = sample_pixels(8, 8)
FAR = 2.0**17
"""float32 has six bits left for what lies beside this number."""


class Float32Only(layers.Layer):  # type: ignore[misc] # Keras has no types
    """Adds a float32 constant, whatever the policy says."""

    def call(self, numbers: tf.Tensor) -> tf.Tensor:
        """Same shape."""
        return numbers + tf.zeros((), tf.float32)


def rounding_model(weights: float = 1.0, between: layers.Layer | None = None) -> keras.Model:
    """Return a convolution whose result is added to a large number, which is taken away again."""
    images = keras.Input((8, 8, 3), name="input_layer")
    x = layers.Rescaling(1 / 255, name="scaled")(images)
    x = layers.Conv2D(4, 3, 2, "same", use_bias=False, name="taken")(x)
    x = layers.Rescaling(1.0, FAR, name="away")(x)
    x = (between or layers.ReLU())(x)  # so that the two are not folded into one
    model = keras.Model(images, layers.Rescaling(1.0, -FAR, name="conv")(x), name="rounding")
    numbers = np.random.default_rng(0)
    model.set_weights([weights * numbers.uniform(0.1, 1.0, weight.shape) for weight in model.get_weights()])
    return model


def backbone(model: keras.Model) -> Built:
    """Dress a model as a backbone that does not scale."""
    return Built(BACKBONES["EfficientNetLite0"], model, "random", "made for a test")


@pytest.mark.parametrize("model", [small_model(), rounding_model()], ids=["small", "rounding"])
def test_float64_is_the_same_network(model: keras.Model) -> None:
    """The same weights, every layer in float64, and the same answer but for rounding."""
    precise = in_float64(model)
    assert {weight.dtype for weight in precise.weights} == {"float64"}
    images = PIXELS.astype(np.float64)
    found, expected = np.asarray(precise(images)), np.asarray(model(images.astype(np.float32)))
    assert found.dtype == np.float64
    assert np.abs(found - expected).max() <= 1e-2  # of 2 ** 17 float32 tells steps of 2 ** -6


def test_what_rounding_explains_passes(tmp_path: Path) -> None:
    """A network that rounds off more than is allowed is as far from float64 as Keras, and the finding says so."""
    slice_ = written(tmp_path, backbone(rounding_model()), small_recipe(VECTOR))
    exact = Float64Reference(slice_, PIXELS, {}).outputs(np.arange(len(PIXELS)))
    assert exact is not None
    rounded = relative_errors(reference(slice_, PIXELS)["vector"], exact["vector"]).max()
    assert rounded > EQUALITY
    require(verify(tmp_path, slice_))


def test_what_rounding_does_not_explain_is_found(tmp_path: Path) -> None:
    """Weights off by a tenth are not taken for rounding where float32 rounds most."""
    written(tmp_path, backbone(rounding_model()), small_recipe(VECTOR))
    slice_ = cut(backbone(rounding_model(weights=1.1)), small_recipe(VECTOR))
    with pytest.raises(VerificationFailed, match="to equal Keras on the same pixels within 0"):
        require(verify(tmp_path, slice_))


def test_float64_is_asked_for_the_rows_in_question_only() -> None:
    """Rows come back in the order in which they were asked for."""
    slice_ = cut(small_backbone(), small_recipe(VECTOR))
    every = Float64Reference(slice_, PIXELS, {}).outputs(np.arange(len(PIXELS)))
    some = Float64Reference(slice_, PIXELS, {}).outputs(np.array([3, 1]))
    assert every is not None
    assert some is not None
    np.testing.assert_allclose(some["vector"], every["vector"][[3, 1]], rtol=1e-12)


def test_a_layer_that_knows_float32_only_is_no_witness(tmp_path: Path) -> None:
    """Then the plain bound holds, here against weights that are off by more than it allows."""
    recipe = small_recipe(VECTOR)
    slice_ = written(tmp_path, backbone(rounding_model(between=Float32Only())), recipe)
    assert Float64Reference(slice_, PIXELS, {}).outputs(np.arange(1)) is None
    other = cut(backbone(rounding_model(1.1, between=Float32Only())), recipe)
    with pytest.raises(VerificationFailed, match="to equal Keras on the same pixels within 0"):
        require(verify(tmp_path, other))
