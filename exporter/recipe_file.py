"""Read a recipe file: strict, without TensorFlow, every problem at once.

file → located YAML tree → checked values → `Recipe` with every default filled in. Whether a layer exists is not
known here; that takes the backbone, see `exporter.tensors`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from exporter.calibration_folder import image_files, images_digest
from exporter.located import Located, read_located
from exporter.own_backbones import KERAS_FILE
from exporter.recipe import (
    DEFAULT_CALIBRATION_IMAGES,
    DEFAULT_MAX_BATCH_SIZE,
    PRECISIONS,
    Calibration,
    ModelRecipe,
    OutputRecipe,
    Recipe,
)
from exporter.recipe_input import read_input, read_scaling
from exporter.recipe_outputs import read_outputs
from exporter.recipe_presets import expanded
from exporter.recipe_sources import Source, read_source
from exporter.strictness import Checker

REQUIRED = ("name", "backbone", "outputs")
OPTIONAL = (
    "weights", "input", "include_top", "precision", "default_output", "max_batch_size", "version", "calibration",
    "compat",
)  # fmt: skip
CALIBRATION_KEYS = ("folder", "images")


def read_recipe(path: Path) -> Recipe:
    """Read and check a recipe file.

    Raises:
        RecipeUnreadable: There is no such file, or it is not YAML.
        RecipeInvalid: It is not a recipe; carries all that is wrong with it.
    """
    check = Checker(path)
    tree = expanded(check, read_located(path))
    top = check.mapping(tree, required=("models",))
    items = check.items(top.get("models"))
    folder = str(path.parent.absolute())
    models = tuple(replace(_model(check, item), folder=folder) for item in items)
    check.refuse_twins(items, [model.name for model in models])
    check.finish()
    return Recipe(path, models, tree)


def _model(check: Checker, at: Located) -> ModelRecipe:
    found = check.mapping(at, required=REQUIRED, optional=OPTIONAL)
    source = read_source(check, at, found)
    outputs = read_outputs(check, found.get("outputs"))
    names = [output.name for output in outputs]
    last = names[-1] if names else ""
    include_top = found.get("include_top")
    version = found.get("version")
    _want_input(check, at, found, source)
    return ModelRecipe(
        name=check.name(found.get("name")),
        backbone=source.backbone,
        weights=source.weights,
        input=read_input(check, found.get("input"), source.row.preprocessing),
        outputs=outputs,
        default_output=check.choice(found.get("default_output"), [name for name in dict.fromkeys(names) if name], last)
        if names
        else "",
        max_batch_size=check.integer(found.get("max_batch_size"), DEFAULT_MAX_BATCH_SIZE),
        precision=check.choice(found.get("precision"), PRECISIONS, PRECISIONS[0]),
        version=None if version is None else check.integer(version, 1),
        scaling=read_scaling(check, found.get("input")),
        include_top=None if include_top is None else check.boolean(include_top, True),
        calibration=_calibration(check, at, found.get("calibration"), outputs),
        files=source.files,
    )


def _want_input(check: Checker, at: Located, found: dict[str, Located], source: Source) -> None:
    """An own model's input cannot be looked up in a table, and a guess would be quietly wrong."""
    if not source.own or not isinstance(at.value, dict):
        return
    given = found["input"].value if "input" in found and isinstance(found["input"].value, dict) else {}
    # A file tells its own size; how its pixels were scaled nobody but the user knows.
    wanted = ("scaling",) if source.backbone.endswith(KERAS_FILE) else ("size", "scaling")
    missing = [key for key in wanted if key not in given]
    if missing:
        check.note(
            found.get("input", at),
            f"expected input: with {' and '.join(missing)} for a backbone of your own. Received: "
            f"{', '.join(given) or 'nothing'}.",
        )


def _calibration(
    check: Checker, at: Located, calibration: Located | None, outputs: tuple[OutputRecipe, ...]
) -> Calibration | None:
    """Read `calibration: FOLDER` or `calibration: {folder: FOLDER, images: 2000}`."""
    if calibration is None:
        wanting = [output.name for output in outputs if output.needs_calibration]
        if wanting:
            check.note(at, f"expected calibration: FOLDER of images, for {', '.join(wanting)}. Received: none.")
        return None
    folder, images = calibration, DEFAULT_CALIBRATION_IMAGES
    if isinstance(calibration.value, dict):
        found = check.mapping(calibration, required=("folder",), optional=("images",))
        if "folder" not in found:
            return None
        folder, images = found["folder"], check.integer(found.get("images"), images)
    path = check.folder(folder)
    if path is None:
        return None
    files = image_files(path, images)
    if not files:
        check.note(folder, f"expected a folder with images. Received: {path}, which has none.")
        return None
    return Calibration(str(path), images, images_digest(files))
