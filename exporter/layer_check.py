"""Look for every layer that a recipe names before any weights are downloaded or read.

Whether a layer is there takes the architecture, but not what it has learnt: each model is built with random weights,
every output is tried, and all that is wrong, in whichever model, is told at once with its line in the file.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras

from exporter.backbones import find_backbone
from exporter.building import build
from exporter.errors import CutError, ImpossibleInput, ImpossiblePooling
from exporter.located import Located
from exporter.progress import stage
from exporter.recipe import ModelRecipe, Recipe
from exporter.slicing import find_output
from exporter.strictness import Checker


def check_layers(recipe: Recipe, wanted: Sequence[ModelRecipe]) -> None:
    """Try every output of some models of a recipe.

    Raises:
        RecipeInvalid: With everything that is wrong, in the order of the file.
    """
    check = Checker(recipe.path)
    entries = dict(zip(recipe.models, recipe.tree.value["models"].value, strict=True))
    for model in wanted:
        with stage(f"{model.name}: looking for its layers in {model.backbone}"):
            _check_model(check, entries[model], model)
    check.finish()


def _check_model(check: Checker, at: Located, model: ModelRecipe) -> None:
    keras.utils.clear_session()  # layers without names of their own are numbered anew, as in the export itself
    row = find_backbone(model.backbone)
    try:
        built = build(row, None, model.input, include_top=model.include_top)
    except CutError as error:
        key = "input" if isinstance(error, ImpossibleInput) and "input" in at.value else "backbone"
        check.note_error(at.value[key], error)
        return
    for output, item in zip(model.outputs, at.value["outputs"].value, strict=True):
        try:
            find_output(built.model, output)
        except CutError as error:
            key = "pooling" if isinstance(error, ImpossiblePooling) and "pooling" in item.value else "layer"
            check.note_error(item.value.get(key) or item.value["layers"], error)
