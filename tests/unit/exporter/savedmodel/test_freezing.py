"""Freezing a slice, whatever its layers are called."""

from __future__ import annotations

import pytest

from exporter.head.slicing import cut
from exporter.models.building import Built
from exporter.recipe.backbones import BACKBONES
from exporter.recipe.resolved import OutputRecipe
from exporter.savedmodel.freezing import frozen_graph
from exporter.verify.keras_reference import reference
from exporter.verify.sample_images import relative_errors, sample_pixels
from tests.unit.exporter.small_models import small_recipe, strangely_named_model


@pytest.mark.parametrize(("precision", "error"), [("float32", 1e-4), ("bfloat16", 0.05)])
def test_names_that_scopes_do_not_allow_are_frozen(precision: str, error: float) -> None:
    """Blanks, colons and other alphabets are fine in Keras; the vectors are its own."""
    built = Built(BACKBONES["MobileNet"], strangely_named_model(), "own", "made for a test")
    outputs = [OutputRecipe(f"out{number}", ref) for number, ref in enumerate(("block1 conv a", "畳み込2", "stem:0:1"))]
    slice_ = cut(built, small_recipe(*outputs))
    pixels = sample_pixels(8, 8)
    with frozen_graph(slice_, {}, precision).session() as run:
        found = run(pixels)
    expected = reference(slice_, pixels)
    assert max(relative_errors(found[name], expected[name]).max() for name in expected) <= error
    assert built.model.get_layer("畳み込2").name == "畳み込2"
