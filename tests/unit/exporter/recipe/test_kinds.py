"""Outputs that are no embeddings: classes with their labels, and numbers with their units."""

from pathlib import Path

import pytest

from exporter.recipe.labels import imagenet_labels
from exporter.recipe.reading import read_recipe
from exporter.recipe.resolved import ModelRecipe, OutputRecipe
from microtome.manifest import Label
from tests.unit.exporter.recipe.test_reading import SMALLEST, output, problems, written

CLASSES = SMALLEST.replace("layer: conv5_block3_out", "kind: classes")


def classes(directory: Path, text: str) -> OutputRecipe:
    """Read the smallest recipe of classes with more keys of its output."""
    more = CLASSES.replace("kind: classes", f"kind: classes, {text}" if text else "kind: classes")
    return read_recipe(written(directory, more)).models[0].outputs[0]


def test_classes_have_defaults(tmp_path: Path) -> None:
    """The last layer, ImageNet's names, the layer's own activation; the classifier is built."""
    assert OutputRecipe("top", "-1", "none", kind="classes", labels="imagenet") == classes(tmp_path, "")
    assert read_recipe(written(tmp_path, CLASSES)).models[0].include_top is True
    names = [label.name for label in imagenet_labels()]
    assert (1000, 1000, "tench", "toilet tissue") == (len(names), len(set(names)), names[0], names[-1])
    assert sorted(ids := [str(label.id) for label in imagenet_labels()]) == ids


def test_the_default_output_is_the_last_embedding(tmp_path: Path) -> None:
    """Requests that name no output keep to vectors when classes are added at the end."""
    added = SMALLEST.replace("}]", "}, {name: classes, kind: classes}]")
    assert "top" == read_recipe(written(tmp_path, added)).models[0].default_output


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("names.txt", "\ufeffa cat\n\nb dog\tn02\n", [("a cat", None), ("b dog", "n02")]),
        ("names.json", '["a", {"name": "b", "id": "n02"}]', [("a", None), ("b", "n02")]),
        ("names.json", '{"1": ["n02", "b"], "0": ["n01", "a"]}', [("a", "n01"), ("b", "n02")]),
    ],
    ids=["text", "JSON", "Keras' class index"],
)
def test_labels_come_from_a_file(tmp_path: Path, name: str, text: str, expected: list[tuple[str, str | None]]) -> None:
    """Read when the recipe is, so that the recorded recipe holds them."""
    (tmp_path / name).write_text(text, encoding="utf-8")
    found = classes(tmp_path, f"labels: {name}")
    assert tuple(Label(*pair) for pair in expected) == found.labels
    (model,) = read_recipe(written(tmp_path, CLASSES.replace("kind", f"labels: {name}, kind"))).models
    assert model == ModelRecipe.from_canonical(model.canonical(), tmp_path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("labels: nix.txt", "labels: expected imagenet, a file or a list"),
        ("labels: [a, a]", "labels: expected labels that differ, by name or by id. Received: 'a' 2 times"),
        ("labels: []", "labels: expected a list with at least one item"),
        ('labels: ""', "labels: expected text"),
        ('labels: ["", b]', "labels[0]: expected text"),
        ("labels: [{id: b}]", "labels[0]: expected the key name"),
        ("labels: {names: [b, {name: 3}]}", "labels.names[1].name: expected text"),
        ("labels: 3", "labels: expected a mapping with source, names"),
        ("labels: bad.json", "labels: expected a list of names or of"),
        ("pooling: avg", "pooling: expected no pooling with kind: classes"),
        ("normalize: l2", "normalize: expected no normalize with kind: classes"),
        ("temperature: 0", "temperature: expected a number above 0"),
        ("threshold: 2", "threshold: expected a number from 0 to 1"),
        ("activation: relu", "activation: expected one of softmax, sigmoid"),
    ],
)
def test_impossible_classes_are_problems(tmp_path: Path, text: str, problem: str) -> None:
    """Each at its place."""
    (tmp_path / "bad.json").write_text("[1, 2]")
    (said,) = problems(tmp_path, CLASSES.replace("kind: classes", f"kind: classes, {text}"))
    assert f"outputs[0].{problem}" in said


def test_keys_of_classes_need_classes(tmp_path: Path) -> None:
    """A threshold would otherwise be ignored."""
    (said,) = problems(tmp_path, output("layer: a, threshold: 0.5"))
    assert "threshold: expected threshold with kind: classes only" in said


def test_numbers_have_names_and_units(tmp_path: Path) -> None:
    """They come from a head, which belongs to the recipe; recipes without them are recorded as before."""
    (tmp_path / "head.npz").write_bytes(b"")
    text = output("layer: a, kind: numbers, labels: [age, 'y'], units: [years, ''], head: {weights: head.npz}")
    (model,) = read_recipe(written(tmp_path, text)).models
    (found,) = model.outputs
    assert ((Label("age"), Label("y")), ("years", "")) == (found.labels, found.units)
    assert model == ModelRecipe.from_canonical(model.canonical(), tmp_path)
    assert "units" not in read_recipe(written(tmp_path, SMALLEST)).models[0].canonical()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("labels: [a]", "expected the key head with kind: numbers"),
        ("labels: [a], units: [m, s], head: {weights: head.npz}", "units: expected a unit for each of the 1 labels"),
        ("labels: [a], units: [2], head: {weights: head.npz}", "units[0]: expected text"),
        ("labels: imagenet, head: {weights: head.npz}", "labels: expected a list of names, or a file of them"),
        ("head: {weights: head.npz}", "expected the key labels"),
        ("labels: [a], threshold: 0.5, head: {weights: head.npz}", "threshold: expected threshold with kind: classes"),
    ],
)
def test_impossible_numbers_are_problems(tmp_path: Path, text: str, problem: str) -> None:
    """Each at its place."""
    (tmp_path / "head.npz").write_bytes(b"")
    (said,) = problems(tmp_path, output(f"layer: a, kind: numbers, {text}"))
    assert problem in said
