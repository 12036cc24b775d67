"""Towers of images and text in recipes: what goes together, and what is said of what does not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from exporter.errors import ImpossibleModel, RecipeInvalid
from exporter.recipe.preset_tokens import preset_tokens
from exporter.recipe.reading import read_recipe
from exporter.recipe.resolved import ModelRecipe
from microtome.manifest import TokensSpec
from tests.exported_models import REPOSITORY

TOKENIZERS = REPOSITORY / "tests" / "assets" / "tokens"
BOTH = """
models:
  - name: clip_image
    family: clip
    backbone: keras_hub:clip
    outputs: [{name: block, layer: encoder_block_0}, {name: projection, layer: projection, pooling: none}]
  - name: clip_text
    family: clip
    tower: text
    backbone: keras_hub:clip
    outputs: [{name: projection, layer: projection, pooling: none}, {name: block, layer: encoder_block_0, pooling: cls}]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with presets that have all but weights: CLIP, SigLIP, and a ViT."""
    for name in ("clip", "siglip", "vit"):
        tower = {"config": {"max_sequence_length": 16, "vocabulary_size": 600}}
        config = {"class_name": name.upper(), "config": {} if name == "vit" else {"text_encoder": tower}}
        if name != "vit":
            shutil.copytree(TOKENIZERS / name, tmp_path / name)
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "config.json").write_text(json.dumps(config), encoding="utf-8")
        converter = {"config": {"image_size": [32, 32], "scale": 0.01}}
        (tmp_path / name / "image_converter.json").write_text(json.dumps(converter), encoding="utf-8")
    return tmp_path


def read(folder: Path, text: str) -> tuple[ModelRecipe, ...]:
    """Read a recipe."""
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    return read_recipe(folder / "recipe.yaml").models


def test_two_models_are_the_towers_of_a_family(folder: Path) -> None:
    """The text tower's input is the preset's; the output in which both meet is the default; a version records it."""
    image, text = read(folder, BOTH)
    assert (image.family, image.tower, image.default_output) == ("clip", "image", "projection")
    assert (text.family, text.tower, text.default_output) == ("clip", "text", "projection")
    assert isinstance(text.input, TokensSpec)
    assert (text.input.length, text.input.vocabulary, text.input.pad, text.input.lowercase) == (16, 600, 0, True)
    for model in (image, text):
        assert ModelRecipe.from_canonical(model.canonical(), folder) == model


def test_models_without_family_are_recorded_as_ever(folder: Path) -> None:
    """Recipes from before there were towers are the same."""
    alone = BOTH.partition("  - name: clip_text")[0].replace("    family: clip\n", "")
    (model,) = read(folder, alone)
    assert not {"family", "tower", "kind"} & {*json.loads(model.canonical()), *json.loads(model.canonical())["input"]}
    assert read(folder, alone.replace("    backbone", "    tower: image\n    backbone")) == (model,)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "    tower: text\n",
            "",
            "models of the family clip, of tower: image and of tower: text. Received: clip_image of",
        ),
        ("  - name: clip_text\n    family: clip\n", "  - name: clip_text\n", "expected family: NAME with tower: text"),
        ("family: clip\n    tower", "family: other\n    tower", "Received: clip_text of tower: text."),
        ("text\n    backbone: keras_hub:clip", "text\n    backbone: keras_hub:siglip", "Received: keras_hub:"),
        ("text\n    backbone: keras_hub:clip", "text\n    backbone: keras_hub:vit", "Received: '{}/vit', a VIT."),
        ("text\n    backbone: keras_hub:clip", "text\n    backbone: ResNet50", "keras_hub:PRESET of images and text"),
        ("    tower: text", "    tower: texts", "expected one of image, text. Received: 'texts'. Nearest: text"),
        ("family: clip", "family: clip_text", "expected the name of a family to be that of no model"),
        (
            "    tower: text",
            "    tower: text\n    input: {size: 32}",
            "expected no input with tower: text, whose length",
        ),
        (
            "    tower: text",
            "    tower: text\n    precision: auto",
            "bfloat16, float16 with tower: text. Received: auto",
        ),
        (
            "pooling: cls",
            "pooling: map",
            "cls, flatten or none with tower: text, whose tokens are no map. Received: map",
        ),
        ("pooling: cls", "pooling: cls, projection: {pca: 4}", "expected no projection: pca with tower: text"),
        ("pooling: cls", "pooling: cls, quantization: int8", "expected no quantization: int8 with tower: text"),
        ("name: projection, layer", "name: joint, layer", "in which the towers of a family meet. Received: only"),
        ("projection, pooling: none", "projection, pooling: none, projection: {random: 4}", "Received: another one"),
    ],
)
def test_what_does_not_go_together_is_said(old: str, new: str, said: str, folder: Path) -> None:
    """In a sentence, with the line."""
    assert old in BOTH
    with pytest.raises(RecipeInvalid) as caught:
        read(folder, BOTH.replace(old, new))
    assert any(said.format(folder) in problem for problem in caught.value.problems), caught.value.problems


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("tokenizer.json", None, "Save the preset with its tokenizer"),
        (
            "tokenizer.json",
            b'{"class_name": "BertTokenizer"}',
            "tokenizer of CLIP or SigLIP .* Received: BertTokenizer",
        ),
        ("assets/tokenizer/vocabulary.spm", b"\x0a\xff", "as KerasHub saves it .* cannot be read"),
        ("assets/tokenizer/vocabulary.spm", b"", "as KerasHub saves it .* cannot be read"),
    ],
)
def test_preset_without_its_tokenizer_says_what_to_do(
    file: str, content: bytes | None, said: str, folder: Path
) -> None:
    """Which is lost when the backbone alone is saved."""
    path = folder / "siglip" / file
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(ImpossibleModel, match=said):
        preset_tokens(str(folder / "siglip"))
