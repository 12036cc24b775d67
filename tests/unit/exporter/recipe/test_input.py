"""The keys `background` and `depth` of a recipe's input."""

from dataclasses import replace
from pathlib import Path

import pytest

from exporter.errors import RecipeInvalid
from exporter.recipe.backbones import BACKBONES
from exporter.recipe.preprocessing import hex_color, recorded
from exporter.recipe.reading import read_recipe
from microtome.manifest import InputSpec

RECIPE = """models:
  - name: a
    backbone: MobileNetV2
    weights: random
    outputs: [{name: a, layer: -2}]
    input: {}
"""


def read(tmp_path: Path, keys: str) -> InputSpec:
    """Read a recipe with these keys in its `input`."""
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.replace("{}", f"{{{keys}}}"), encoding="utf-8")
    return read_recipe(path).models[0].pixels


@pytest.mark.parametrize(
    ("given", "expected"),
    [("#ffffff", "#ffffff"), ("#FFF", "#ffffff"), ([255, 0, 10], "#ff000a"), ((1, 2, 3), "#010203")],
)
def test_colours_are_read(given: object, expected: str) -> None:
    """Hexadecimal digits, short or long, or three numbers."""
    assert hex_color(given) == expected


@pytest.mark.parametrize(
    "given", [None, "white", "#ff", "ffffff", "#ffffff00", [255, 255], [1, 2, 256], [1, 2, 3.0], [True, 1, 1], 7]
)
def test_what_is_no_colour_is_refused(given: object) -> None:
    """Names, transparency, and numbers that are none of a channel."""
    with pytest.raises(ValueError, match="a colour, such as"):
        hex_color(given)


def test_a_recipe_names_background_and_depth(tmp_path: Path) -> None:
    """In either way of writing a colour; both are recorded, and so enter the fingerprint."""
    usual = read(tmp_path, "")
    found = read(tmp_path, "background: [255, 255, 255], depth: scale")
    assert found == replace(usual, background="#ffffff", depth="scale")
    assert found == read(tmp_path, 'background: "#FFF", depth: scale')
    assert recorded(found) == recorded(usual) | {"background": "#ffffff", "depth": "scale"}


def test_defaults_are_not_recorded(tmp_path: Path) -> None:
    """So fingerprints of recipes from before there were such keys stay."""
    assert set(recorded(read(tmp_path, "depth: keras"))) == {
        *("height", "width", "resize", "shortest_side", "interpolation", "crop", "exif_orientation", "jpeg_draft")
    }
    assert recorded(read(tmp_path, "depth: keras")) == recorded(BACKBONES["MobileNetV2"].preprocessing)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("background: white", 'input.background: expected a colour, such as "#ffffff" in quotes or [255, 255, 255].'),
        ("background: #ffffff\n    ", "input.background"),
        ("background: [1, 2]", "Received: a list"),
        ("depth: 16", "input.depth: expected one of keras, scale. Received: 16."),
        ("depth: scales", "Nearest: scale"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, keys: str, said: str) -> None:
    """A colour without quotes is a comment of YAML, so the message shows quotes."""
    with pytest.raises(RecipeInvalid) as caught:
        read(tmp_path, keys)
    assert said in str(caught.value)
