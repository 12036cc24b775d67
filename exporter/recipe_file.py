"""Read a recipe file: strict, without TensorFlow, every problem at once.

file → located YAML tree → checked values → `Recipe` with every default filled in. Whether a layer exists is not
known here; that takes the backbone, see `exporter.tensors`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from exporter.backbones import BACKBONES, Backbone
from exporter.errors import nearest
from exporter.located import Located, read_located
from exporter.preprocessing import CROPS, INTERPOLATIONS, RESIZES, Preprocessing, resolve
from exporter.recipe import DEFAULT_MAX_BATCH_SIZE, POOLINGS, WEIGHTS, ModelRecipe, OutputRecipe, Recipe
from exporter.strictness import Checker

_INPUT_KEYS = ("size", "resize", "shortest_side", "interpolation", "crop", "exif_orientation", "jpeg_draft")


def read_recipe(path: Path) -> Recipe:
    """Read and check a recipe file.

    Raises:
        RecipeUnreadable: There is no such file, or it is not YAML.
        RecipeInvalid: It is not a recipe; carries all that is wrong with it.
    """
    check = Checker(path)
    top = check.mapping(read_located(path), required=("models",))
    items = check.items(top.get("models"))
    models = tuple(_model(check, item) for item in items)
    _refuse_twins(check, items, [model.name for model in models])
    check.finish()
    return Recipe(path, models)


def _model(check: Checker, at: Located) -> ModelRecipe:
    found = check.mapping(
        at,
        required=("name", "backbone", "weights", "outputs"),
        optional=("input", "default_output", "max_batch_size"),
    )
    row = _backbone(check, found.get("backbone"))
    items = check.items(found.get("outputs"))
    outputs = tuple(_output(check, item) for item in items)
    names = [output.name for output in outputs]
    _refuse_twins(check, items, names)
    last = names[-1] if names else ""
    return ModelRecipe(
        name=check.name(found.get("name")),
        backbone=row.name,
        weights=check.choice(found.get("weights"), WEIGHTS, "random"),
        input=_input(check, found.get("input"), row.preprocessing),
        outputs=outputs,
        default_output=check.choice(found.get("default_output"), list(dict.fromkeys(names)), last) if names else "",
        max_batch_size=check.integer(found.get("max_batch_size"), DEFAULT_MAX_BATCH_SIZE),
    )


def _backbone(check: Checker, at: Located | None) -> Backbone:
    name = check.text(at)
    if at is not None and name and name not in BACKBONES:
        check.note(at, f"expected one of {len(BACKBONES)} backbones. Received: {name!r}. {nearest(name, BACKBONES)}")
    # Any row lets the rest of the entry be checked too; what has been noted keeps it from ever being used.
    return BACKBONES.get(name) or next(iter(BACKBONES.values()))


def _output(check: Checker, at: Located) -> OutputRecipe:
    found = check.mapping(at, required=("name", "layer"), optional=("pooling",))
    return OutputRecipe(
        name=check.name(found.get("name")),
        layer=check.text(found.get("layer")),
        pooling=check.choice(found.get("pooling"), POOLINGS, "avg"),
    )


def _input(check: Checker, at: Located | None, default: Preprocessing) -> Preprocessing:
    if at is None:
        return default
    found = check.mapping(at, required=(), optional=_INPUT_KEYS)
    chosen: dict[str, Any] = {}
    if "size" in found:
        chosen["height"], chosen["width"] = _size(check, found["size"], default)
    for key, choices in (("resize", RESIZES), ("interpolation", INTERPOLATIONS), ("crop", CROPS)):
        if key in found:
            chosen[key] = check.choice(found[key], choices, getattr(default, key))
    if "shortest_side" in found:
        chosen["shortest_side"] = check.integer(found["shortest_side"], default.shortest_side or default.height)
    for key in ("exif_orientation", "jpeg_draft"):
        if key in found:
            chosen[key] = check.boolean(found[key], getattr(default, key))
    resolved = resolve(default, chosen)
    for problem in resolved.impossibilities():
        check.note(at, problem)
    return resolved


def _size(check: Checker, at: Located, default: Preprocessing) -> tuple[int, int]:
    """Read `224` or `[height, width]`."""
    if not isinstance(at.value, list):
        side = check.integer(at, default.height)
        return side, side
    if len(at.value) != 2:
        check.note(at, f"expected pixels, or [height, width] in pixels. Received: a list of {len(at.value)}.")
        return default.height, default.width
    return check.integer(at.value[0], default.height), check.integer(at.value[1], default.width)


def _refuse_twins(check: Checker, items: list[Located], names: list[str]) -> None:
    for index, (item, name) in enumerate(zip(items, names, strict=True)):
        if name and name in names[:index]:
            check.note(item, f"expected names that differ. Received: {name!r} twice.")
