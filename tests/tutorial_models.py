"""Models of one's own as tutorials write them, exported and compared with Keras.

`python docs/measure_own_models.py` exports and serves all of them, for the table of docs/guides/own_models.md.
tests/integration/test_tutorial_models.py exports them too.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import keras
import numpy as np
import tensorflow as tf
from keras import layers

from exporter.export import export
from exporter.recipe.reading import read_recipe
from microtome.preprocessing import as_image
from tests.pictures import encoded
from tests.unit.exporter.small_models import strangely_named_model

SIDE = 32
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
        older: Whether the file is rewritten as Keras 3.1 would have it.
    """

    model: keras.Model
    saved: keras.Model
    cut: str
    at: Callable[[Array], Any]
    ending: str = ".keras"
    older: bool = False


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


def grey() -> Written:
    """Return a network for one channel, as tutorials on MNIST have it."""
    images = keras.Input((28, 28, 1))
    x = layers.Conv2D(8, 3, activation="relu", name="conv")(layers.Rescaling(1 / 255)(images))
    x = layers.MaxPooling2D(name="pool")(x)
    model = keras.Model(images, layers.Dense(10)(layers.Dropout(0.5)(layers.Flatten()(x))), name="digits")
    return Written(model, model, "pool", up_to(model, "pool"))


def cut_out() -> Written:
    """Return a base that sees pictures on white, by their opacity."""
    inner = base()
    images = keras.Input((SIDE, SIDE, 4))
    opacity = images[..., 3:] / 255.0
    model = keras.Model(images, inner(images[..., :3] / 255.0 * opacity + (1.0 - opacity)), name="cut_out")
    cut = up_to(inner, "stem_bn")

    def at(given: Array) -> Any:
        over = given[..., 3:] / 255
        return cut(given[..., :3] / 255 * over + (1 - over))

    return Written(model, model, "stem_bn", at)


def as_older(path: Path) -> None:
    """Rewrite a `.keras` file as Keras 3.1 wrote it, in what later releases read otherwise."""

    def older(config: Any) -> Any:
        if isinstance(config, list):
            return [older(one) for one in config]
        if not isinstance(config, dict):
            return config
        if config.get("class_name") == "DTypePolicy":
            return config["config"]["name"]
        found = {key: older(value) for key, value in config.items()}
        if found.get("class_name") == "RandomRotation":
            found["config"]["value_range"] = [0, 255]
        if found.get("class_name") == "Functional":
            found["config"]["output_layers"] = [found["config"]["output_layers"]]
        return found

    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["config.json"] = json.dumps(older(json.loads(members["config.json"]))).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


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
    "`.keras` of Keras 3.1": lambda: replace(sequential(), older=True),
    "input (None, None, 3)": lambda: sequential(size=None),
    "uint8 input": of_bytes,
    "one channel, grey": grey,
    "four channels, RGB and opacity": cut_out,
    "names with blanks and in other alphabets": strange,
}


@dataclass(frozen=True, slots=True)
class Exported:
    """A version, images, and what Keras computes of them without the exporter.

    Attributes:
        path: The version.
        cut: The layer.
        images: uint8 [2, H, W, channels].
        wanted: By output: of the cut, and the model's own.
        seconds: The export took, verification included.
        size: Of the version, in bytes.
    """

    path: Path
    cut: str
    images: Array
    wanted: dict[str, Array]
    seconds: float
    size: int

    def errors(self, answers: Mapping[str, Array]) -> tuple[float, float]:
        """Return the largest relative errors of the cut and of the model's own output."""
        return _error(answers["cut"], self.wanted["cut"]), _error(answers["end"], self.wanted["end"])

    def loaded(self) -> dict[str, Array]:
        """Answer as TensorFlow Serving does, without a server."""
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            meta = tf.compat.v1.saved_model.load(session, [tf.saved_model.SERVING], str(self.path))
            signature = meta.signature_def["serving_default"]
            (given,) = signature.inputs.values()
            fetched = {name: info.name for name, info in signature.outputs.items()}
            answers: dict[str, Array] = session.run(fetched, {given.name: self.images})
        return answers

    def served(self, url: str) -> dict[str, Array]:
        """Answer over HTTP: the images go as PNG, whose pixels are these."""
        model = self.path.parent.name
        files = [("image", (f"{index}.png", encoded(as_image(one)))) for index, one in enumerate(self.images)]
        found: dict[str, Array] = {}
        with httpx.Client(base_url=url, timeout=60.0, trust_env=False) as client:
            for name, wanted in self.wanted.items():
                said = client.post("/embed", params={"model": model, "output": name}, files=files)
                assert said.status_code == httpx.codes.OK, said.text
                vectors = [one["vector"] for one in said.json()["embeddings"]]
                found[name] = np.array(vectors, np.float32).reshape(wanted.shape)
        return found


def exported(source: str, folder: Path, models: Path, *, verified: bool = True) -> Exported:
    """Write a model and export it.

    Args:
        source: One of `SOURCES`.
        folder: Where the model's file goes.
        models: The models directory; the model is called by the source's place.
        verified: Whether the exporter verifies it, too.
    """
    keras.utils.clear_session()
    keras.utils.set_random_seed(1)
    written = SOURCES[source]()
    numbers = np.random.default_rng(1)
    _fill(written.model, numbers)
    written.saved.set_weights(written.model.get_weights())
    name = model_name(source)
    written.saved.save(folder / f"{name}{written.ending}")
    if written.older:
        as_older(folder / f"{name}{written.ending}")
    side = written.model.inputs[0].shape[1] or SIDE
    recipe = {
        "name": name,
        "backbone": f"{name}{written.ending}",
        "weights": "own",
        "input": {"size": side, "resize": "squash", "crop": "none", "scaling": "none"},
        "outputs": [
            {"name": "cut", "layer": written.cut, "pooling": "none"},
            {"name": "end", "layer": "-1", "pooling": "none"},
        ],
    }
    (folder / "recipe.yaml").write_text(json.dumps({"models": [recipe]}), encoding="utf-8")
    (model,) = read_recipe(folder / "recipe.yaml").models
    done = export(model, models, verified=verified)
    images = numbers.integers(0, 256, (2, side, side, written.model.inputs[0].shape[3]), np.uint8)
    given = images.astype(np.float32)
    wanted = {"cut": np.asarray(written.at(given)), "end": np.asarray(written.model(images, training=False))}
    return Exported(done.path, written.cut, images, wanted, done.seconds, done.size)


def model_name(source: str) -> str:
    """Return what an exported model is called."""
    return f"own{list(SOURCES).index(source)}"


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
