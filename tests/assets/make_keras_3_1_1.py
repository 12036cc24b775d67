"""Make tests/assets/keras_3_1_1.keras, what a tutorial's model is in the release of its time, and say what it answers.

In an environment of its own, with Keras 3.1.1:

    python tests/assets/make_keras_3_1_1.py
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
from keras import layers

SIDE = 32
RELEASE = "3.1.1"


def main() -> None:
    """Write the file, packed, and print the answer."""
    assert keras.__version__ == RELEASE
    images = keras.Input((SIDE, SIDE, 3))
    stem = layers.Conv2D(4, 3, 2, "same", use_bias=False, name="stem")(images)
    stem = layers.ReLU(6, name="stem_relu")(layers.BatchNormalization(name="stem_bn")(stem))
    x = layers.DepthwiseConv2D(3, padding="same", name="block_1_depthwise")(stem)
    x = layers.Conv2D(4, 1, name="block_1_project")(x)
    base = keras.Model(images, layers.Add(name="block_1_add")([stem, x]), name="base")
    augmentation = [layers.RandomFlip("horizontal"), layers.RandomRotation(0.2)]
    model = keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 3)),
            keras.Sequential(augmentation, name="augmentation"),
            layers.Rescaling(1 / 127.5, -1),
            base,
            layers.GlobalAveragePooling2D(),
            layers.Dense(3),
        ],
        name="flowers",
    )
    numbers = np.random.default_rng(1)
    model.set_weights([numbers.uniform(0.1, 1, w.shape) if w.dtype.kind == "f" else w for w in model.get_weights()])
    target = Path(__file__).with_name(f"keras_{RELEASE.replace('.', '_')}.keras")
    whole = target.with_suffix(".whole.keras")
    model.save(whole)
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    whole.unlink()
    pixels = np.arange(SIDE * SIDE * 3, dtype=np.float32).reshape(1, SIDE, SIDE, 3) % 251
    sys.stdout.write(f"{np.asarray(model(pixels, training=False)).tolist()}\n")


if __name__ == "__main__":
    main()
