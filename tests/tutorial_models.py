"""Models of one's own as tutorials write them, exported and compared with Keras.

python -m tests.tutorial_models     exports all of them and writes the table of docs/guides/own_models.md

tests/integration/test_tutorial_models.py exports them too, and checks that the table has them.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from exporter.export import export
from exporter.recipe.reading import read_recipe
from tests.unit.exporter.small_models import strangely_named_model

SIDE = 32
PAGE = Path(__file__).parents[1] / "docs" / "guides" / "own_models.md"
START, END = "<!-- table -->\n", "<!-- end of table -->\n"
TOLERANCE = 1e-4

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Written:
    """A model as it was saved.

    Attributes:
        model: In float32; computes what the file should.
        saved: What is saved.
        cut: A layer, as a recipe names it.
        at: From the model's input to that layer, by Keras alone.
        ending: Of its file.
    """

    model: keras.Model
    saved: keras.Model
    cut: str
    at: Callable[[Array], Any]
    ending: str = ".keras"


def base(name: str = "base", size: int | None = SIDE) -> keras.Model:
    """Return a backbone: a stem and a block with a shortcut, with batch norms."""
    images = keras.Input((size, size, 3))
    stem = layers.Conv2D(8, 3, 2, "same", use_bias=False, name="stem")(images)
    stem = layers.ReLU(6, name="stem_relu")(layers.BatchNormalization(name="stem_bn")(stem))
    x = layers.Conv2D(16, 1, use_bias=False, name="block_1_expand")(stem)
    x = layers.ReLU(6, name="block_1_expand_relu")(layers.BatchNormalization(name="block_1_expand_bn")(x))
    x = layers.DepthwiseConv2D(3, padding="same", name="block_1_depthwise")(x)
    x = layers.Conv2D(8, 1, name="block_1_project")(x)
    return keras.Model(images, layers.Add(name="block_1_add")([stem, x]), name=name)


def augmentation() -> keras.Model:
    """Return the layers that every tutorial puts first."""
    return keras.Sequential([layers.RandomFlip("horizontal"), layers.RandomRotation(0.2)], name="augmentation")


def up_to(model: keras.Model, layer: str) -> keras.Model:
    """Return a model up to one of its own layers."""
    return keras.Model(model.input, model.get_layer(layer).output)


def sequential(*, ending: str = ".keras", size: int | None = SIDE) -> Written:
    """Return `Sequential([augmentation, base, pooling, Dense])`."""
    inner = base(size=size)
    head = [layers.GlobalAveragePooling2D(), layers.Dense(5)]
    model = keras.Sequential(
        [keras.Input((size, size, 3)), augmentation(), layers.Rescaling(1 / 127.5, -1), inner, *head], name="flowers"
    )
    cut = up_to(inner, "block_1_expand_relu")
    return Written(model, model, "base/block_1_expand_relu", lambda images: cut(images / 127.5 - 1), ending)


def functional() -> Written:
    """Return Keras' guide to transfer learning: `base(x, training=False)` within a functional model."""
    inner = base()
    inner.trainable = False
    images = keras.Input((SIDE, SIDE, 3))
    x = keras.applications.mobilenet_v2.preprocess_input(augmentation()(images))
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(inner(x, training=False)))
    model = keras.Model(images, layers.Dense(1)(x), name="cats_and_dogs")
    cut = up_to(inner, "block_1_depthwise")
    return Written(model, model, "block_1_depthwise", lambda images: cut(images / 127.5 - 1))


def deeper() -> Written:
    """Return a functional model in a Sequential model in a functional model."""
    inner = base()
    middle = keras.Sequential([keras.Input((SIDE, SIDE, 3)), layers.Rescaling(1 / 255), inner], name="encoder")
    images = keras.Input((SIDE, SIDE, 3))
    model = keras.Model(images, layers.Dense(4)(layers.Flatten()(middle(images))), name="deeper")
    cut = up_to(inner, "block_1_expand_bn")
    return Written(model, model, "encoder/base/block_1_expand_bn", lambda images: cut(images / 255))


def twice() -> Written:
    """Return a model that calls its base on two versions of the image."""
    inner = base()
    images = keras.Input((SIDE, SIDE, 3))
    x = layers.Rescaling(1 / 255)(images)
    model = keras.Model(images, layers.Subtract(name="change")([inner(x), inner(layers.AveragePooling2D(1)(-x))]))
    cut = up_to(inner, "block_1_project")
    return Written(model, model, "base/block_1_project:1", lambda images: cut(-images / 255))


def alike() -> Written:
    """Return two bases with the same names of layers, and a layer of that name around them."""
    one, other = base("left"), base("right")
    images = keras.Input((SIDE, SIDE, 3))
    x = layers.Rescaling(1 / 255, name="stem")(images)
    model = keras.Model(images, layers.Concatenate()([one(x), other(x)]), name="alike")
    cut = up_to(other, "stem")
    return Written(model, model, "right/stem", lambda images: cut(images / 255))


def mixed(policy: str) -> Written:
    """Return a model that was trained and saved in mixed precision, and the same weights in float32."""
    model = sequential().model
    before = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy(policy)
    try:
        saved = sequential().model
    finally:
        keras.mixed_precision.set_dtype_policy(before)
    saved.set_weights(model.get_weights())
    cut = up_to(model.get_layer("base"), "block_1_add")
    return Written(model, saved, "base", lambda images: cut(images / 127.5 - 1))


def of_bytes() -> Written:
    """Return a model that takes uint8, as tutorials for phones have it."""
    inner = base()
    images = keras.Input((SIDE, SIDE, 3), dtype="uint8")
    model = keras.Model(images, inner(layers.Rescaling(1 / 255)(images)), name="bytes")
    cut = up_to(inner, "stem_bn")
    return Written(model, model, "stem_bn", lambda images: cut(images / 255))


def strange() -> Written:
    """Return names of layers that TensorFlow's scopes do not allow, within a model."""
    inner = strangely_named_model()
    images = keras.Input((8, 8, 3))
    model = keras.Model(images, layers.GlobalMaxPooling2D()(inner(images)), name="strange")
    return Written(model, model, "strange names/合計", up_to(inner, "合計"))


SOURCES: dict[str, Callable[[], Written]] = {
    "Sequential of augmentation, base and head": sequential,
    "functional, base(x, training=False)": functional,
    "models within models within a model": deeper,
    "base called twice": twice,
    "two bases with the same names": alike,
    "saved under mixed_float16": lambda: mixed("mixed_float16"),
    "saved under mixed_bfloat16": lambda: mixed("mixed_bfloat16"),
    "whole-model .h5": lambda: sequential(ending=".h5"),
    "input (None, None, 3)": lambda: sequential(size=None),
    "uint8 input": of_bytes,
    "names with blanks and in other alphabets": strange,
}


@dataclass(frozen=True, slots=True)
class Compared:
    """What an export gave.

    Attributes:
        cut: The layer.
        errors: Largest relative errors of the cut and of the model's own output.
        seconds: The export took, verification included.
        size: Of the version, in bytes.
    """

    cut: str
    errors: tuple[float, float]
    seconds: float
    size: int


def compared(source: str, folder: Path, *, verified: bool = True) -> Compared:
    """Write a model, export it, and compare what the version serves with Keras."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(1)
    written = SOURCES[source]()
    numbers = np.random.default_rng(1)
    _fill(written.model, numbers)
    written.saved.set_weights(written.model.get_weights())
    written.saved.save(folder / f"own{written.ending}")
    side = written.model.inputs[0].shape[1] or SIDE
    recipe = {
        "name": "own",
        "backbone": f"own{written.ending}",
        "weights": "own",
        "input": {"size": side, "resize": "squash", "crop": "none", "scaling": "none"},
        "outputs": [
            {"name": "cut", "layer": written.cut, "pooling": "none"},
            {"name": "end", "layer": "-1", "pooling": "none"},
        ],
    }
    (folder / "recipe.yaml").write_text(json.dumps({"models": [recipe]}), encoding="utf-8")
    (model,) = read_recipe(folder / "recipe.yaml").models
    done = export(model, folder / "models", verified=verified)
    images = numbers.integers(0, 256, (2, side, side, 3), np.uint8)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        meta = tf.compat.v1.saved_model.load(session, [tf.saved_model.SERVING], str(done.path))
        signature = meta.signature_def["serving_default"]
        (given,) = signature.inputs.values()
        fetched = {name: info.name for name, info in signature.outputs.items()}
        served = session.run(fetched, {given.name: images})
    wanted = written.at(images.astype(np.float32)), written.model(images, training=False)
    errors = _error(served["cut"], wanted[0]), _error(served["end"], wanted[1])
    return Compared(written.cut, errors, done.seconds, done.size)


def _fill(model: keras.Model, numbers: np.random.Generator) -> None:
    """Give every weight, and every statistic of a batch norm, a value of its own; seeds stay."""
    for variable in model.weights:
        if variable.dtype == "float32":
            low = 0.1 if len(variable.shape) == 1 else -0.5  # variances are positive
            variable.assign(numbers.uniform(low, 1.0, variable.shape))


def _error(given: Array, wanted: Any) -> float:
    wanted = np.asarray(wanted, np.float32)
    assert given.shape == wanted.shape
    return float(np.abs(given - wanted).max() / np.abs(wanted).max())


def table(found: dict[str, Compared]) -> str:
    """Return the table of the guide."""
    lines = ["| source | cut | error of the cut | of the output | export | size |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {source} | `{one.cut}` | {one.errors[0]:.1e} | {one.errors[1]:.1e} | {one.seconds:.1f} s | "
        f"{one.size / 1e3:.0f} kB |"
        for source, one in found.items()
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Export all of them and write the table."""
    found = {}
    for source in SOURCES:
        with tempfile.TemporaryDirectory() as folder:
            started = time.process_time()
            found[source] = compared(source, Path(folder))
            sys.stderr.write(f"{source}: {found[source]} {time.process_time() - started:.1f} s CPU\n")
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    PAGE.write_text(f"{before}{START}{table(found)}{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
