"""The fingerprint: everything that can move a vector, and nothing that cannot."""

from __future__ import annotations

from dataclasses import replace

import pytest

from exporter.head.embedding import whole_head
from exporter.head.slicing import Slice, cut
from exporter.models.building import Built
from exporter.recipe.backbones import BACKBONES
from exporter.recipe.resolved import ModelRecipe, OutputRecipe
from exporter.savedmodel.fingerprint import fingerprint
from exporter.savedmodel.freezing import freeze
from exporter.savedmodel.manifest import described_classes
from microtome.manifest import Label
from tests.unit.exporter.small_models import DEEP, PIXELS, VECTOR, small_backbone, small_recipe


def fingerprint_of(built: Built, recipe: ModelRecipe) -> str:
    """Freeze a slice again and return its fingerprint."""
    return fingerprint(freeze(cut(built, recipe), whole_head({})), recipe.input, None, recipe.tolerances)


@pytest.fixture(scope="module")
def usual() -> str:
    """The fingerprint of the small recipe."""
    return fingerprint_of(small_backbone(), small_recipe(VECTOR, DEEP))


def test_another_build_has_the_same_fingerprint(usual: str) -> None:
    """Keras numbers its layers and TensorFlow its nodes differently on every build; that moves no vector."""
    assert fingerprint_of(small_backbone(), small_recipe(VECTOR, DEEP)) == usual


def test_names_and_limits_that_move_no_vector_do_not_enter(usual: str) -> None:
    """Another model name, default output, batch limit, or order of outputs keeps the cache."""
    other = replace(small_recipe(DEEP, VECTOR), name="other", default_output="deep", max_batch_size=64)
    assert fingerprint_of(small_backbone(), other) == usual


@pytest.mark.parametrize(
    "recipe",
    [
        small_recipe(replace(VECTOR, pooling="max"), DEEP),
        small_recipe(replace(VECTOR, layer="bn"), DEEP),
        small_recipe(replace(VECTOR, tolerance=0.01), DEEP),
        small_recipe(VECTOR),
        small_recipe(replace(VECTOR, name="deep"), replace(DEEP, name="vector")),
        small_recipe(VECTOR, DEEP, pixels=replace(PIXELS, interpolation="nearest")),
        small_recipe(VECTOR, DEEP, pixels=replace(PIXELS, decode="exact")),
        small_recipe(VECTOR, DEEP, pixels=replace(PIXELS, decode="fast")),
        small_recipe(VECTOR, DEEP, pixels=replace(PIXELS, shortest_side=10)),
        small_recipe(VECTOR, DEEP, pixels=replace(PIXELS, background="#ffffff")),
        small_recipe(VECTOR, DEEP, pixels=replace(PIXELS, depth="scale")),
    ],
    ids=[
        *("pooling", "layer", "tolerance", "outputs", "outputs swapped", "interpolation", "exact", "fast", "resize"),
        *("background", "depth"),
    ],
)
def test_what_can_move_a_vector_changes_it(usual: str, recipe: ModelRecipe) -> None:
    """Pooling, layer, which name means which output, preprocessing, tolerance: each gives another fingerprint."""
    assert fingerprint_of(small_backbone(), recipe) != usual


def test_weights_change_it(usual: str) -> None:
    """Other weights, however little, give another fingerprint."""
    built = small_backbone()
    weights = built.model.get_weights()
    weights[0][0, 0, 0, 0] += 1e-6
    built.model.set_weights(weights)
    assert fingerprint_of(built, small_recipe(VECTOR, DEEP)) != usual


def test_weights_that_no_output_needs_do_not_enter(usual: str) -> None:
    """The classifier is not part of a slice below it."""
    built = small_backbone()
    built.model.get_layer("predictions").bias.assign([1.0] * 10)
    assert fingerprint_of(built, small_recipe(VECTOR, DEEP)) == usual


def test_scaling_changes_it(usual: str) -> None:
    """The same layers behind another scaling give another fingerprint."""
    built = replace(small_backbone(), row=BACKBONES["ResNet50"])
    assert fingerprint_of(built, small_recipe(VECTOR, DEEP)) != usual


def test_two_outputs_of_one_layer_are_kept_apart() -> None:
    """The same layer, pooled in two ways under two names, is not the same as the names exchanged."""
    avg, highest = OutputRecipe("a", "conv", "avg"), OutputRecipe("b", "conv", "max")
    swapped = replace(avg, pooling="max"), replace(highest, pooling="avg")
    assert fingerprint_of(small_backbone(), small_recipe(avg, highest)) != fingerprint_of(
        small_backbone(), small_recipe(*swapped)
    )


def test_names_and_units_of_numbers_are_part_of_it() -> None:
    """5 cm must not become 5 inches under the same fingerprint, nor a width a height."""
    built = small_backbone()
    plain = OutputRecipe("box", "conv", kind="numbers", labels=(Label("width"),), units=("cm",), head="head.npz")
    (output,) = cut(built, small_recipe(VECTOR)).outputs
    outputs = [replace(plain, units=("in",)), replace(plain, units=None), replace(plain, labels=(Label("height"),))]
    said = [
        described_classes(Slice(built, built.model, (replace(output, recipe=one),), PIXELS))
        for one in [plain, *outputs]
    ]
    assert all(one != said[0] for one in said[1:])
    assert said[0]["box"] == {"kind": "numbers", "labels": [{"name": "width", "id": None}], "units": ["cm"]}
