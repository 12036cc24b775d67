"""The preset `compat: i2v-keras`: an index that Weaviate made with its container i2v-keras keeps working."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.applications.resnet import ResNet50, preprocess_input

from microtome.manifest import InputSpec
from microtome.preprocessing import decode
from tests.exported_models import REPOSITORY, export

NASTY = (
    "exif_orientation/hopper_orientation_6.jpg",
    "colour/Channel_digital_image_CMYK_color_no_profile.jpg",
    "colour/image-in-alpha.png",
    "colour/p_trns_single.png",
    "colour/different_transparency.gif",
    "formats/hopper.bmp",
)
RECIPE = "models:\n  - {name: i2v, compat: i2v-keras, weights: own.weights.h5}\n"


@pytest.mark.timeout(600)
def test_pixels_and_vectors_are_those_of_keras(tmp_path: Path, shared_data: Callable[[str], Path]) -> None:
    """The gateway's pixels bit for bit those of load_img; the SavedModel's vectors within 1e-5 of avg_pool's."""
    keras.utils.set_random_seed(6)
    whole = ResNet50(weights=None)
    whole.save_weights(tmp_path / "own.weights.h5")
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    done = export(tmp_path / "recipe.yaml", tmp_path / "models", timeout=500)
    assert done.returncode == 0, done.stderr
    version = tmp_path / "models" / "i2v" / "1"
    manifest = json.loads((version / "assets.extra" / "manifest.json").read_bytes())
    nasty = [shared_data("nasty") / name for name in NASTY]
    photos = sorted(shared_data("imagenet1k_256").glob("n*.jpg"))[::250]
    files = [*sorted((REPOSITORY / "examples").glob("*.jpg")), *photos, *nasty]

    # What the container does, in its own words.
    loaded = [keras.utils.img_to_array(keras.utils.load_img(file, target_size=(224, 224))) for file in files]
    avg_pool = keras.Model(whole.input, whole.get_layer("avg_pool").output)
    expected = avg_pool.predict(preprocess_input(np.array(loaded)), verbose=0)

    spec = InputSpec(**manifest["input"])
    pixels = np.stack([decode(file.read_bytes(), spec, max_pixels=10**8) for file in files])
    np.testing.assert_array_equal(pixels, np.array(loaded))
    served = tf.saved_model.load(str(version)).signatures["serving_default"](images=tf.constant(pixels))
    assert (["avg_pool"], "avg_pool") == (list(served), manifest["default_output"])
    assert np.abs(served["avg_pool"] - expected).max() < 1e-5 * np.abs(expected).max()
    assert len(np.unique(expected.round(4), axis=0)) == len(files), "images that all have one vector prove nothing"
