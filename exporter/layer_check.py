"""Look for every layer that a recipe names before any weights are downloaded or read.

Whether a layer is there, and can be pooled and projected as asked, takes the architecture, but not what it has learnt:
each model is built with random weights, every output is tried, and all that is wrong, in whichever model, is told at
once with its line in the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import keras

from exporter.attainable import want_attainable, want_memory
from exporter.backbones import find_backbone
from exporter.building import build
from exporter.calibration_folder import image_files
from exporter.errors import CutError, ImpossibleInput, ImpossiblePooling, ImpossibleProjection
from exporter.located import Located
from exporter.progress import stage
from exporter.recipe import ModelRecipe, OutputRecipe, Recipe
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
    calibration = model.calibration
    images = len(image_files(Path(calibration.folder), calibration.images)) if calibration is not None else 0
    wanting: dict[OutputRecipe, tuple[int, ...]] = {}
    for output, item in zip(model.outputs, at.value["outputs"].value, strict=True):
        try:
            _, _, pooled = find_output(built.model, output)
            want_attainable(output, pooled, images)
        except CutError as error:
            check.note_error(_place(item.value, error), error)
        else:
            wanting |= {output: pooled} if output.needs_calibration else {}
    try:
        want_memory(wanting, images)
    except ImpossibleProjection as error:
        check.note_error(at.value["calibration"], error)


def _place(said: Mapping[str, Located], error: CutError) -> Located:
    """Return what an output's recipe must change."""
    keys = {ImpossiblePooling: ("pooling",), ImpossibleProjection: ("projection", "quantization")}.get(type(error), ())
    return next(said[key] for key in (*keys, "layer", "layers") if key in said)
