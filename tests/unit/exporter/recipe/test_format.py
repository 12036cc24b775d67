"""The published schema: it accepts what the reader accepts, and knows the reader's keys."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from exporter.cli import main
from exporter.recipe.format import recipe_schema
from tests.unit.exporter.recipe.test_reading import FULL, SMALLEST, output

REPOSITORY = Path(__file__).parents[4]
SHIPPED = [REPOSITORY / "recipe.yaml", *sorted((REPOSITORY / "recipes").glob("*.yaml"))]


def check(text: str) -> None:
    """Hold a recipe to the schema."""
    jsonschema.Draft202012Validator(recipe_schema()).validate(yaml.safe_load(text))


def test_schema_is_one() -> None:
    """The schema keeps to the rules for schemas."""
    jsonschema.Draft202012Validator.check_schema(recipe_schema())


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_recipes_keep_to_it(path: Path) -> None:
    """Every recipe of the repository is valid by the schema."""
    check(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("text", [SMALLEST, FULL])
def test_what_the_reader_accepts_it_accepts(text: str) -> None:
    """From the smallest recipe to one that says everything."""
    check(text)


@pytest.mark.parametrize(
    "text",
    [
        "models: []",
        SMALLEST + "    colour: rgb\n",
        SMALLEST + "    precision: half\n",
        SMALLEST + "    input: {size: [1, 2, 3]}\n",
        output("pooling: avg"),
        output("layer: a, layers: [b]"),
        output("layer: a, pooling: mean"),
        output("layer: a, projection: {pca: 8, random: 8}"),
    ],
)
def test_it_refuses_what_the_reader_refuses(text: str) -> None:
    """An editor underlines the slip before the exporter sees it."""
    with pytest.raises(jsonschema.ValidationError):
        check(text)


def test_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    """`microtome recipe schema` is for a redirection into a file."""
    assert main(["recipe", "schema"]) == 0
    assert json.loads(capsys.readouterr().out) == recipe_schema()
