"""Reading a recipe: strict, with every problem at once, and without TensorFlow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from exporter.errors import RecipeInvalid, RecipeUnreadable, UnknownModel
from exporter.recipe.backbones import BACKBONES
from exporter.recipe.preprocessing import input_spec, recorded
from exporter.recipe.reading import read_recipe
from exporter.recipe.resolved import Calibration, ModelRecipe, OutputRecipe, Projection
from microtome import fast_resizing

SMALLEST = """
models:
  - name: a
    backbone: ResNet50
    weights: random
    outputs: [{name: top, layer: conv5_block3_out}]
"""


def written(directory: Path, text: str) -> Path:
    """Write a recipe file."""
    path = directory / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def output(text: str) -> str:
    """Return the smallest recipe with another output, written as a YAML flow mapping's inside."""
    return SMALLEST.replace("name: top, layer: conv5_block3_out", f"name: top, {text}")


def problems(directory: Path, text: str) -> tuple[str, ...]:
    """Read a recipe that is wrong and return what is said about it, without the directory."""
    with pytest.raises(RecipeInvalid) as caught:
        read_recipe(written(directory, text))
    return tuple(problem.replace(f"{directory}/", "") for problem in caught.value.problems)


def test_smallest_recipe_gets_every_default(tmp_path: Path) -> None:
    """What is left out is the backbone's own preprocessing, average pooling, the last output, batches of 32."""
    (model,) = read_recipe(written(tmp_path, SMALLEST)).models
    pixels = input_spec(224, 224, shortest_side=256)
    outputs = (OutputRecipe("top", "conv5_block3_out", "avg"),)
    assert model == ModelRecipe("a", "ResNet50", "random", pixels, outputs, "top", 32)


def test_saying_a_default_aloud_changes_nothing(tmp_path: Path) -> None:
    """Two recipes that mean the same are the same, so that nothing is exported twice for want of a comment."""
    said = SMALLEST.replace(
        "    outputs:", "    max_batch_size: 32   # why not\n    input: {size: [224, 224], crop: center}\n    outputs:"
    )
    plain = read_recipe(written(tmp_path, SMALLEST)).models[0]
    assert plain.canonical() == read_recipe(written(tmp_path, said)).models[0].canonical()


@pytest.mark.parametrize("recipe", ["recipe.yaml", "recipes/densenet169.yaml", "recipes/inceptionv3.yaml",
                                    "recipes/resnet50.yaml", "recipes/vgg19.yaml"])  # fmt: skip
def test_shipped_recipes_are_valid(repository: Path, recipe: str) -> None:
    """Every recipe in the repository can be read."""
    assert read_recipe(repository / recipe).models


def test_default_recipe_says_the_defaults_of_its_backbone(repository: Path, tmp_path: Path) -> None:
    """The input that recipe.yaml spells out to teach the format is what would hold without it."""
    spelt_out = read_recipe(repository / "recipe.yaml").models[0].input
    left_out = read_recipe(written(tmp_path, SMALLEST.replace("ResNet50", "EfficientNetLite0"))).models[0].input
    assert spelt_out == left_out


def test_all_problems_are_told_at_once_with_line_key_expected_and_received(tmp_path: Path) -> None:
    """A user mends a recipe in one go."""
    text = """
models:
  - name: "a/b"
    backbone: resnet51
    weights: imagnet
    colour: rgb
    max_batch_size: 0
    default_output: bottom
    outputs:
      - {name: top, layer: x, pooling: mean}
      - {name: top}
"""
    assert (
        "\n".join(problems(tmp_path, text))
        == f"""\
recipe.yaml:3: models[0].name: expected up to 64 letters, digits, _ . or -, a letter or digit first. Received: 'a/b'.
recipe.yaml:4: models[0].backbone: expected one of {len(BACKBONES)} backbones, a .keras or .h5 file, \
module:function or keras_hub:preset. Received: 'resnet51'. Nearest: ResNet50, ResNet152, ResNet101.
recipe.yaml:5: models[0].weights: expected one of imagenet, random, or a file (.h5 .hdf5 .keras .pt .pth). Received: \
'imagnet'. Nearest: imagenet.
recipe.yaml:6: models[0].colour: unknown key. Expected: name, backbone, outputs, family, tower, weights, input, \
include_top, precision, tolerance, default_output, max_batch_size, version, calibration, compat. Received: \
'colour'. Nearest: none.
recipe.yaml:7: models[0].max_batch_size: expected a whole number of at least 1. Received: 0.
recipe.yaml:8: models[0].default_output: expected one of top. Received: 'bottom'. Nearest: none.
recipe.yaml:10: models[0].outputs[0].pooling: expected one of avg, max, flatten, none, cls, map, gem(p), spp(1,2,4). \
Received: 'mean'. Nearest: max, map.
recipe.yaml:11: models[0].outputs[1]: expected the key layer, or layers for several. Received: only name.
recipe.yaml:11: models[0].outputs[1]: expected names that differ. Received: 'top' twice."""
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "recipe.yaml:1: expected a mapping with models. Received: nothing."),
        ("- a", "recipe.yaml:1: expected a mapping with models. Received: a list."),
        ("models: []", "models: expected a list with at least one item. Received: an empty list."),
        (SMALLEST + "models: []\n", "models: expected models once. Received: it again."),
        (SMALLEST.replace("name: a", "name: 7"), "models[0].name: expected text. Received: 7."),
        (SMALLEST + "    max_batch_size: yes\n", "expected a whole number of at least 1. Received: True."),
        (SMALLEST + "    input: {crop: none}\n", "Received: resize: shortest-side, crop: none."),
        (SMALLEST + "    input: {shortest_side: 200}\n", "expected shortest_side of at least 224 pixels."),
        (SMALLEST + "    input: {resize: squash, shortest_side: 256}\n", "expected shortest_side with resize:"),
        (SMALLEST + "    input: {size: [1, 2, 3]}\n", "expected pixels, or [height, width] in pixels."),
        (SMALLEST + "    version: 0\n", "version: expected a whole number of at least 1. Received: 0."),
        (SMALLEST + "    precision: half\n", "precision: expected one of float32, bfloat16, float16, auto."),
        (
            SMALLEST + "    precision: auto\n",
            "expected calibration: FOLDER of images, for precision: auto. Received: none.",
        ),
        (
            SMALLEST + "    input: {color: gray}\n",
            "expected color: rgb with ResNet50, which takes three channels. Received: gray.",
        ),
        (SMALLEST + "    input: {color: grey}\n", "expected one of gray, rgb, rgba. Received: 'grey'. Nearest: gray"),
        (SMALLEST + "    include_top: maybe\n", "include_top: expected true or false. Received: 'maybe'."),
        (SMALLEST + "    calibration: nowhere\n", "nowhere, which is not there."),
        (SMALLEST + "    calibration: {folder: .}\n", "expected a folder with images."),
        (SMALLEST.replace("ResNet50", "own.keras"), "own.keras, which is not there."),
        (SMALLEST.replace("ResNet50", "mine:net"), "expected input: with size and scaling for a backbone of your own."),
        (SMALLEST.replace("random", "mine.h5"), "mine.h5, which is not there."),
        (SMALLEST.replace("    weights: random\n", ""), "models[0]: expected the key weights. Received: only name,"),
        (output("layers: []"), "layers: expected a list with at least one item."),
        (output("layer: a, layers: [b]"), "expected the key layer, or layers for several. Received: both."),
        (output("layers: [a, b], pooling: none"), "expected a pooling that makes vectors"),
        (output("layer: a, pooling: gem(0)"), "Received: 'gem(0)'."),
        (output("layer: a, pooling: spp(0)"), "Received: 'spp(0)'."),
        (
            output("layer: a, pooling: spp(1,2)"),
            'expected quotes around a pooling with commas, as in pooling: "spp(1,2)".',
        ),
        (output("layer: a, projection: {pca: 8}"), "expected calibration: FOLDER of images, for top."),
        (output("layer: a, quantization: int8"), "expected calibration: FOLDER of images, for top."),
        (
            output("layer: a, projection: {pca: 8, random: 8}"),
            "expected pca: D or random: D. Received: pca and random.",
        ),
        (output("layer: a, projection: {whiten: true}"), "expected pca: D or random: D. Received: neither."),
        (output("layer: a, projection: {random: 8, whiten: true}"), "expected no whiten with random."),
        (output("layer: a, projection: {random: 0}"), "random: expected a whole number of at least 1. Received: 0."),
        (output("layer: a, projection: {random: 8}, pooling: none"), "to project it. Received: pooling: none"),
        (output("layer: a, normalize: l1"), "normalize: expected one of none, l2."),
        (SMALLEST + "    tolerance: 0\n", "tolerance: expected a number above 0 and at most 1. Received: 0."),
        (output("layer: a, tolerance: 2"), "tolerance: expected a number above 0 and at most 1. Received: 2."),
        (output("layer: a, tolerance: much"), "tolerance: expected a number above 0 and at most 1. Received: 'much'."),
        (SMALLEST + "    input: {jpeg_draft: 1}\n", "input.jpeg_draft: expected true or false. Received: 1."),
        (SMALLEST + "    input: {decode: draft}\n", "input.decode: expected one of exact, balanced, fast."),
        (
            SMALLEST + "    input: {decode: fast, jpeg_draft: true}\n",
            "input: expected decode alone. Received: decode: fast and jpeg_draft: true.",
        ),
    ],
)
def test_each_kind_of_problem_is_named(tmp_path: Path, text: str, said: str) -> None:
    """Whatever is wrong with a recipe, the message says what would be right."""
    assert any(said in problem for problem in problems(tmp_path, text))


def test_an_invalid_part_hides_no_problem_of_another(tmp_path: Path) -> None:
    """Where a key is missing, unknown or of the wrong kind, the rest of the file is checked all the same."""
    text = """
models:
  - name: a
    backbone: resnet51
    calibration: {colour: rgb}
    outputs:
      - {layer: x, quantization: int8}
      - 3
      - {name: top, layer: [], pooling: none, projection: {random: 0}}
"""
    assert [problem.partition(". Received")[0] for problem in problems(tmp_path, text)] == [
        "recipe.yaml:3: models[0]: expected the key weights",
        (
            f"recipe.yaml:4: models[0].backbone: expected one of {len(BACKBONES)} backbones, a .keras or .h5 file, "
            "module:function or keras_hub:preset"
        ),
        "recipe.yaml:5: models[0].calibration: expected the key folder",
        "recipe.yaml:5: models[0].calibration.colour: unknown key. Expected: folder, images",
        "recipe.yaml:7: models[0].outputs[0]: expected the key name",
        (
            "recipe.yaml:8: models[0].outputs[1]: expected a mapping with name, layer, layers, pooling, projection, "
            "normalize, quantization, tolerance, kind, labels, activation, temperature, threshold, units, head"
        ),
        "recipe.yaml:9: models[0].outputs[2].layer: expected text",
        "recipe.yaml:9: models[0].outputs[2].projection.random: expected a whole number of at least 1",
        "recipe.yaml:9: models[0].outputs[2].projection: expected a pooling that makes a vector, to project it",
    ]


def test_a_tolerance_is_the_outputs_or_the_models_and_a_usual_one_changes_nothing(tmp_path: Path) -> None:
    """`1e-2`, which YAML takes for text, too; recipes from before tolerances are recorded as they were."""
    plain = read_recipe(written(tmp_path, SMALLEST)).models[0]
    assert "tolerance" not in plain.canonical()
    usual = read_recipe(written(tmp_path, SMALLEST + "    tolerance: 0.0001\n")).models[0]
    assert usual.canonical() == plain.canonical()
    wide = read_recipe(written(tmp_path, SMALLEST + "    tolerance: 1e-2\n")).models[0]
    assert set(wide.tolerances.values()) == {0.01}
    assert ModelRecipe.from_canonical(wide.canonical(), tmp_path).tolerances == wide.tolerances
    own = read_recipe(written(tmp_path, output("layer: a, tolerance: 0.5") + "    tolerance: 1e-2\n")).models[0]
    assert own.tolerances == {"top": 0.5}


def test_recipes_from_before_decode_keep_their_meaning_and_fingerprint(tmp_path: Path) -> None:
    """`jpeg_draft` is what `decode` was; what is recorded of both, in a recipe and for the fingerprint, is the same."""
    before: dict[str, Any] = {
        "height": 224,
        "width": 224,
        "resize": "shortest-side",
        "shortest_side": 256,
        "interpolation": "bilinear",
        "crop": "center",
        "exif_orientation": True,
    }
    for old, new in (({"jpeg_draft": True}, "balanced"), ({"jpeg_draft": False}, "exact")):
        said, meant = (
            read_recipe(written(tmp_path, f"{SMALLEST}    input: {json.dumps(one)}\n")).models[0]
            for one in (old, {"decode": new})
        )
        assert said == meant
        assert json.dumps(recorded(said.input)) == json.dumps(before | old)
        assert ModelRecipe.from_canonical(said.canonical(), tmp_path) == said
    fast = read_recipe(written(tmp_path, SMALLEST + "    input: {decode: fast}\n")).models[0]
    assert recorded(fast.input) == before | {"jpeg_draft": True, "decode": "fast"}
    assert ModelRecipe.from_canonical(fast.canonical(), tmp_path) == fast


def test_fast_is_refused_where_its_library_is_lacking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the place of the key, before anything is built."""
    monkeypatch.setattr(fast_resizing, "_library", lambda: None)
    (problem,) = problems(tmp_path, SMALLEST + "    input: {decode: fast}\n")
    assert "models[0].input: decode: fast needs cykooz-resizer" in problem


PRESET = "models:\n  - name: i2v\n    compat: i2v-keras\n"
SPELT_OUT = """
models:
  - name: i2v
    backbone: ResNet50
    weights: imagenet
    input: {size: 224, resize: squash, interpolation: nearest, exif_orientation: false, jpeg_draft: false,
            scaling: caffe}
    outputs: [{name: avg_pool, layer: conv5_block3_out}]
"""


def test_a_preset_is_what_it_stands_for(tmp_path: Path) -> None:
    """`compat: i2v-keras` means the keys spelt out, and may stand beside some of them; only the weights are free."""
    expected = read_recipe(written(tmp_path, SPELT_OUT)).models
    assert expected == read_recipe(written(tmp_path, PRESET)).models
    said = PRESET + "    backbone: ResNet50\n    input: {size: 224, jpeg_draft: false}\n    precision: float32\n"
    assert expected == read_recipe(written(tmp_path, said)).models
    (random,) = read_recipe(written(tmp_path, PRESET + "    weights: random\n")).models
    assert (replace(expected[0], weights="random"),) == (random,)


def test_the_preset_is_what_the_guide_for_weaviate_says(repository: Path) -> None:
    """Letter by letter."""
    assert f"```yaml\n{PRESET}```" in (repository / "docs" / "guides" / "weaviate.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "backbone: VGG16",
            "recipe.yaml:4: models[0].backbone: expected backbone: ResNet50, or none beside compat: i2v-keras",
        ),
        ("input: {resize: letterbox}", "models[0].input.resize: expected resize: squash, or none beside compat:"),
        (
            "input: {exif_orientation: true}",
            "expected exif_orientation: false, or none beside compat: i2v-keras, which",
        ),
        ("input: {shortest_side: 256}", "expected shortest_side with resize: shortest-side, and nowhere else."),
        ("input: {colour: rgb}", "models[0].input.colour: unknown key."),
        ("outputs: [{name: a, layer: avg_pool}]", "models[0].outputs: expected outputs left out beside compat:"),
        (
            "precision: bfloat16",
            "expected precision: float32, or none beside compat: i2v-keras, which fixes it. Received:",
        ),
        ("weights: imagnet", "models[0].weights: expected one of imagenet, random, or a file"),
    ],
)
def test_what_contradicts_a_preset_is_named(tmp_path: Path, text: str, said: str) -> None:
    """Vectors that agree with an existing index in all but one respect are of no use to it."""
    assert any(said in problem for problem in problems(tmp_path, f"{PRESET}    {text}\n"))


def test_an_unknown_preset_is_told_of_the_others(tmp_path: Path) -> None:
    """And nothing else is found wrong with it."""
    (problem,) = problems(tmp_path, PRESET.replace("i2v-keras", "i2v-pytorch"))
    assert "models[0].compat: expected one of i2v-keras. Received: 'i2v-pytorch'" in problem


def test_missing_file_is_told_by_name(tmp_path: Path) -> None:
    """A recipe that is not there is not a traceback."""
    with pytest.raises(RecipeUnreadable, match=r"nowhere\.yaml: No such file"):
        read_recipe(tmp_path / "nowhere.yaml")


def test_what_is_not_yaml_is_told_by_line(tmp_path: Path) -> None:
    """A slip of the pen is found by its line."""
    with pytest.raises(RecipeUnreadable, match=r"recipe\.yaml:3: not YAML: expected .* but got"):
        read_recipe(written(tmp_path, "models:\n  - {name: a\n"))


def test_another_size_keeps_the_proportion_of_crop_to_image(tmp_path: Path) -> None:
    """Twice the input means twice the resize before the crop."""
    (model,) = read_recipe(written(tmp_path, SMALLEST + "    input: {size: 448}\n")).models
    assert (model.pixels.height, model.pixels.shortest_side) == (448, 512)


def test_squash_needs_no_crop(tmp_path: Path) -> None:
    """A resize that fills the input turns the default crop off by itself."""
    (model,) = read_recipe(written(tmp_path, SMALLEST + "    input: {resize: squash}\n")).models
    assert (model.pixels.crop, model.pixels.shortest_side) == ("none", None)


def test_selecting_a_model_the_recipe_lacks_names_those_it_has(tmp_path: Path) -> None:
    """`--model` with a typo is answered with the names there are."""
    recipe = read_recipe(written(tmp_path, SMALLEST))
    with pytest.raises(UnknownModel, match=r"recipe\.yaml: a\. Received: 'b'\."):
        recipe.select("b")


def test_reading_a_recipe_does_not_import_tensorflow(repository: Path) -> None:
    """`microtome up` checks its recipe in no time."""
    code = (
        "import sys, exporter.savedmodel.publication; from pathlib import Path;"
        "from exporter.recipe.reading import read_recipe;"
        "read_recipe(Path('recipe.yaml')); sys.exit(bool({'tensorflow', 'keras', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=repository, check=False).returncode == 0


FULL = """
models:
  - name: all
    backbone: ResNet50
    weights: random
    precision: bfloat16
    version: 7
    include_top: false
    calibration: {folder: photos, images: 2}
    outputs:
      - {name: a, layer: -2, pooling: gem, projection: {pca: 8, whiten: true}, normalize: l2, quantization: int8}
      - {name: b, layers: [x, "y:1"], pooling: "spp(1, 3)", projection: {random: 16, seed: 3}}
"""


def test_everything_a_recipe_can_say_is_understood(tmp_path: Path) -> None:
    """Poolings get their customary numbers, layers may be indices, and the calibration images are told apart."""
    (tmp_path / "photos" / "deep").mkdir(parents=True)
    for name in ("a.jpg", "deep/b.PNG", "notes.txt"):
        (tmp_path / "photos" / name).write_bytes(name.encode())
    (model,) = read_recipe(written(tmp_path, FULL)).models
    assert (model.precision, model.version, model.include_top) == ("bfloat16", 7, False)
    assert model.outputs == (
        OutputRecipe("a", "-2", "gem(3)", (), Projection("pca", 8, whiten=True), "l2", "int8"),
        OutputRecipe("b", "x", "spp(1,3)", ("y:1",), Projection("random", 16, seed=3)),
    )
    assert isinstance(model.calibration, Calibration)
    assert (model.calibration.folder, model.calibration.images) == (str(tmp_path / "photos"), 2)


def test_other_calibration_images_make_another_recipe(tmp_path: Path) -> None:
    """An image that changes under the same name is noticed; a file that is no image is not."""
    (tmp_path / "photos").mkdir()
    photo = tmp_path / "photos" / "a.jpg"
    photo.write_bytes(b"one")
    before = read_recipe(written(tmp_path, FULL)).models[0].canonical()
    (tmp_path / "photos" / "notes.txt").touch()
    assert read_recipe(tmp_path / "recipe.yaml").models[0].canonical() == before
    photo.write_bytes(b"two")
    assert read_recipe(tmp_path / "recipe.yaml").models[0].canonical() != before
    # A hole of 2 TB, which would be read for hours.
    os.truncate(photo, 2 << 40)
    (problem,) = problems(tmp_path, FULL)
    assert "expected images that can be read. Received: [Errno 27] File too large" in problem


def test_files_of_ones_own_are_found_beside_the_recipe_and_told_apart(tmp_path: Path) -> None:
    """A weights file that changes under the same name is another recipe."""
    weights = tmp_path / "mine.h5"
    weights.write_bytes(b"one")
    path = written(tmp_path, SMALLEST.replace("random", "mine.h5"))
    before = read_recipe(path).models[0]
    assert before.weights == str(weights)
    weights.write_bytes(b"two")
    assert read_recipe(path).models[0].files != before.files


def test_canonical_text_can_be_read_back(tmp_path: Path) -> None:
    """What lies beside a published version is enough to build its model again."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"one")
    for text in (SMALLEST, FULL):
        (model,) = read_recipe(written(tmp_path, text)).models
        assert ModelRecipe.from_canonical(model.canonical(), tmp_path) == model


OWN = """
models:
  - name: a
    backbone: mine.keras
    weights: other.h5
    input: {size: 8, scaling: tf}
    calibration: photos
    outputs: [{name: top, layer: x, quantization: int8}]
  - name: b
    backbone: keras_hub:preset
    input: {size: 8, scaling: none}
    outputs: [{name: top, layer: x, pooling: cls}]
"""


def test_recorded_recipe_does_not_tell_where_it_lay(tmp_path: Path) -> None:
    """The same recipe with the same files records the same in two folders, and is found again in either."""
    recorded = []
    for folder in (tmp_path / "here", tmp_path / "there" / "deeper"):
        (folder / "photos").mkdir(parents=True)
        (folder / "preset").mkdir()
        for name in ("mine.keras", "other.h5", "photos/a.jpg", "preset/config.json"):
            (folder / name).write_bytes(name.encode())
        models = read_recipe(written(folder, OWN)).models
        assert models[0].backbone == str(folder / "mine.keras")
        assert models[1].backbone == f"keras_hub:{folder / 'preset'}"
        assert [path for path, _ in models[1].files] == [str(folder / "preset" / "config.json")]
        recorded.append([model.canonical() for model in models])
        assert [ModelRecipe.from_canonical(text, folder) for text in recorded[-1]] == list(models)
    assert recorded[0] == recorded[1]
    assert str(tmp_path) not in "".join(recorded[0])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("layer: x, from: y", "Received: 'from'. A model that is served begins with an image; what lies between two"),
        ("layer: x, dtype: float16", "Received: 'dtype'. Vectors leave the model server as float32; the gateway"),
    ],
)
def test_keys_that_people_expect_are_answered_with_the_way_on(tmp_path: Path, text: str, told: str) -> None:
    """A slice between two layers and another number format exist, but not here."""
    (problem,) = problems(tmp_path, output(text))
    assert told in problem


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": "a"}'])
def test_text_that_is_no_entry_is_refused(text: str) -> None:
    """A damaged recipe.json is told from a recipe."""
    with pytest.raises(ValueError, match=r"Expecting|not a recipe entry"):
        ModelRecipe.from_canonical(text)


def _aliases(levels: int) -> str:
    lines = ["models: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        _aliases(9),
        "models: &a [*a]",
        "[" * 100_000,
        "{a: " * 900 + "1" + "}" * 900,
        f"models: [{'a, ' * 50_000}]",
        "#" * (1 << 20) + "\n" + SMALLEST,
    ],
    ids=["aliases", "itself", "lists", "mappings", "items", "bytes"],
)
def test_a_recipe_is_bounded_while_it_is_read(tmp_path: Path, text: str) -> None:
    """Nine levels of nine aliases would be 400 million values, and PyYAML takes quadratic time for brackets."""
    with pytest.raises(RecipeUnreadable, match=r"expected at most|of at most"):
        read_recipe(written(tmp_path, text))


@pytest.mark.parametrize("number", ["9" * 5000, "9" * 30, "1:" * 3000 + "1", "1" * 5000 + ".0"])
def test_numbers_of_many_digits_are_refused(tmp_path: Path, number: str) -> None:
    """Python refuses to read the first; each is refused as no version, and shown cut."""
    (problem,) = problems(tmp_path, SMALLEST.replace("name: a", f"name: a\n    version: {number}"))
    assert "expected a whole number of at " in problem
    assert len(problem) < 400


def test_a_recipe_is_a_regular_file(tmp_path: Path) -> None:
    """A pipe would be waited for, for ever."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RecipeUnreadable, match="not a regular file"):
        read_recipe(tmp_path / "pipe")


def test_many_problems_are_told_in_part(tmp_path: Path) -> None:
    """The first hundred; and a key cannot write to the terminal."""
    found = problems(tmp_path, "\n".join(f"key{number}: 1" for number in range(5000)) + '\n"\\e[2J": 1\n')
    assert len(found) == 101
    assert "and 4902 more" in found[-1]
    assert all(line.isprintable() for line in found)
