"""The recipe's format as a JSON schema, for editors and for tools; the reader's own rules and names, written once.

A schema cannot say everything (that a file is there, that names differ, which crop goes with which resize), so what
it accepts may still be refused by `microtome export`; what it refuses is refused there too.
"""

from __future__ import annotations

from typing import Any

from exporter import pooling_names
from exporter.preprocessing import CROPS, INTERPOLATIONS, RESIZES
from exporter.recipe import DEFAULT_CALIBRATION_IMAGES, NORMALIZATIONS, PRECISIONS, QUANTIZATIONS
from exporter.recipe_input import SCALINGS
from exporter.strictness import NAME

_TEXT = {"type": "string", "minLength": 1}
_COUNT = {"type": "integer", "minimum": 1}
_NAME = {"type": "string", "pattern": f"^{NAME.pattern}$"}
_LAYER = {"type": ["string", "integer"], "minLength": 1, "description": "A name, or an index such as -2."}


def recipe_schema() -> dict[str, Any]:
    """Return the schema, draft 2020-12."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Microtome recipe",
        **_mapping({"models": _list(_model())}, required=["models"]),
    }


def _model() -> dict[str, Any]:
    calibration = _mapping({"folder": _TEXT, "images": {**_COUNT, "default": DEFAULT_CALIBRATION_IMAGES}}, ["folder"])
    return _mapping(
        {
            "name": {**_NAME, "description": "What clients ask for, and the name of the directory."},
            "backbone": {**_TEXT, "description": "A row of the table, FILE.keras, module:function, keras_hub:preset."},
            "weights": {**_TEXT, "description": "imagenet, random, own, or a weights file."},
            "input": _input(),
            "include_top": {"type": "boolean"},
            "precision": {"enum": list(PRECISIONS)},
            "outputs": _list(_output()),
            "default_output": {**_NAME, "description": "The last output if left out."},
            "max_batch_size": _COUNT,
            "version": {**_COUNT, "description": "The next free one if left out."},
            "calibration": {"anyOf": [_TEXT, calibration], "description": "A folder of images like those to come."},
        },
        required=["name", "backbone", "outputs"],
    )


def _input() -> dict[str, Any]:
    return _mapping(
        {
            "size": {"anyOf": [_COUNT, {"type": "array", "items": _COUNT, "minItems": 2, "maxItems": 2}]},
            "resize": {"enum": list(RESIZES)},
            "shortest_side": _COUNT,
            "interpolation": {"enum": list(INTERPOLATIONS)},
            "crop": {"enum": list(CROPS)},
            "exif_orientation": {"type": "boolean"},
            "jpeg_draft": {"type": "boolean"},
            "scaling": {"enum": list(SCALINGS), "description": "The backbone's own if left out."},
        }
    )


def _output() -> dict[str, Any]:
    pca = _mapping({"pca": _COUNT, "whiten": {"type": "boolean"}}, ["pca"])
    random = _mapping({"random": _COUNT, "seed": {"type": "integer", "minimum": 0}}, ["random"])
    return {
        **_mapping(
            {
                "name": _NAME,
                "layer": _LAYER,
                "layers": _list(_LAYER),
                "pooling": {"type": "string", "pattern": pooling_names.PATTERN, "default": "avg"},
                "projection": {"oneOf": [pca, random]},
                "normalize": {"enum": list(NORMALIZATIONS), "default": "none"},
                "quantization": {"enum": list(QUANTIZATIONS), "default": "none"},
            },
            required=["name"],
        ),
        "oneOf": [{"required": ["layer"]}, {"required": ["layers"]}],
    }


def _mapping(properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": required or [],
        "properties": properties,
    }


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "minItems": 1, "items": items}
