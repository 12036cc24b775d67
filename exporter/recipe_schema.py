"""The recipe's format as a JSON schema, for editors and for tools; the reader's own rules and names, written once.

A schema cannot say everything (that a file is there, that names differ, which crop goes with which resize), so what
it accepts may still be refused by `microtome export`; what it refuses is refused there too.
"""

from __future__ import annotations

from typing import Any

from exporter import pooling_names
from exporter.preprocessing import CROPS, INTERPOLATIONS, RESIZES
from exporter.recipe import (
    DEFAULT_CALIBRATION_IMAGES,
    DEFAULT_MAX_BATCH_SIZE,
    NORMALIZATIONS,
    PRECISIONS,
    QUANTIZATIONS,
)
from exporter.recipe_input import SCALINGS
from exporter.recipe_presets import PRESETS
from exporter.strictness import NAME

_TEXT = {"type": "string", "minLength": 1}
_COUNT = {"type": "integer", "minimum": 1}
_NAME = {"type": "string", "pattern": f"^{NAME.pattern}$"}
_SWITCH = {"type": "boolean"}
_LAYER = {
    "type": ["string", "integer"],
    "minLength": 1,
    "description": "A name, an index such as -2, or layer:call:output where a name alone would mean several.",
}


def recipe_schema() -> dict[str, Any]:
    """Return the schema, draft 2020-12."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Microtome recipe",
        **_mapping({"models": _list(_model())}, required=["models"]),
    }


def _model() -> dict[str, Any]:
    calibration = _mapping(
        {
            "folder": _said(_TEXT, "Every image below it counts."),
            "images": {**_said(_COUNT, "At most so many, evenly spread."), "default": DEFAULT_CALIBRATION_IMAGES},
        },
        ["folder"],
    )
    model = _mapping(
        {
            "name": _said(_NAME, "What clients ask for, and the name of the directory."),
            "compat": _said(
                {"enum": list(PRESETS)},
                "All that makes vectors equal those of another system. Nothing beside it may say otherwise.",
            ),
            "backbone": _said(_TEXT, "A row of the table, FILE.keras, module:function, keras_hub:PRESET; or compat."),
            "weights": _said(_TEXT, "imagenet, random, own (a model that comes with its own), or a weights file."),
            "input": {**_input(), "description": "From an image to pixels; the backbone's own where nothing is said."},
            "include_top": _said(_SWITCH, "Whether the classifier is there; left out: where published weights fit it."),
            "precision": {
                **_said({"enum": list(PRECISIONS)}, "Of the arithmetic; vectors are float32 in any case."),
                "default": PRECISIONS[0],
            },
            "outputs": {**_list(_output()), "description": "The embeddings; or compat."},
            "default_output": _said(_NAME, "For requests that name none; the last output if left out."),
            "max_batch_size": {
                **_said(_COUNT, "The largest batch that a model server runs."), "default": DEFAULT_MAX_BATCH_SIZE,
            },
            "version": _said(_COUNT, "The next free one if left out."),
            "calibration": {
                "anyOf": [_TEXT, calibration],
                "description": "A folder of images like those to come, for pca and int8.",
            },
        },
        required=["name"],
    )  # fmt: skip
    return {**model, "anyOf": [{"required": ["backbone", "outputs"]}, {"required": ["compat"]}]}


def _input() -> dict[str, Any]:
    size = {"anyOf": [_COUNT, {"type": "array", "items": _COUNT, "minItems": 2, "maxItems": 2}]}
    return _mapping(
        {
            "size": _said(size, "Pixels, or [height, width] in pixels."),
            "resize": _said({"enum": list(RESIZES)}, "squash ignores the proportions, letterbox pads."),
            "shortest_side": _said(_COUNT, "Pixels of the shorter side after resizing, before the crop."),
            "interpolation": _said({"enum": list(INTERPOLATIONS)}, "Of the resizing."),
            "crop": _said({"enum": list(CROPS)}, "none with squash and letterbox."),
            "exif_orientation": _said(_SWITCH, "Turn photos the way the camera was held."),
            "jpeg_draft": _said(_SWITCH, "Decode large JPEGs at a reduced scale: much faster, all but equal."),
            "scaling": _said({"enum": list(SCALINGS)}, "What the graph does to pixels of 0 to 255."),
        }
    )


def _output() -> dict[str, Any]:
    pca = _mapping({"pca": _COUNT, "whiten": _SWITCH}, ["pca"])
    random = _mapping({"random": _COUNT, "seed": {"type": "integer", "minimum": 0}}, ["random"])
    pooling = {"type": "string", "pattern": pooling_names.PATTERN, "default": "avg"}
    projection = {"oneOf": [pca, random]}
    return {
        **_mapping(
            {
                "name": _said(_NAME, "What clients ask for."),
                "layer": _LAYER,
                "layers": {**_list(_LAYER), "description": "Several, appended to one vector, each normalised first."},
                "pooling": _said(pooling, f"One of {', '.join(pooling_names.SPELLINGS)}."),
                "projection": _said(projection, "To so many dimensions: fitted on images, or seeded and sparse."),
                "normalize": {**_said({"enum": list(NORMALIZATIONS)}, "The last step."), "default": "none"},
                "quantization": {
                    **_said({"enum": list(QUANTIZATIONS)}, "Whether ranges are kept for the gateway's int8 answers."),
                    "default": "none",
                },
            },
            required=["name"],
        ),
        "oneOf": [{"required": ["layer"]}, {"required": ["layers"]}],
    }


def _said(schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {**schema, "description": description}


def _mapping(properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": required or [],
        "properties": properties,
    }


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "minItems": 1, "items": items}
