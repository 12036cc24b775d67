"""Write down what a SavedModel is: the manifest, checked against the contract in protos/."""

from __future__ import annotations

import functools
import importlib.metadata
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import keras
import tensorflow as tf

from exporter.recipe import ModelRecipe
from exporter.slicing import Slice, SliceOutput

_SCHEMA = Path(__file__).resolve().parents[1] / "protos/microtome/manifest/v1/manifest.schema.json"


def describe(recipe: ModelRecipe, slice_: Slice, fingerprint: str) -> str:
    """Return the manifest as JSON text, valid by its schema.

    The same text goes into the `manifest` signature and into `assets.extra/manifest.json`.
    """
    document = {
        "schema": 1,
        "model": recipe.name,
        "fingerprint": fingerprint,
        "backbone": {"name": recipe.backbone, "weights": slice_.built.weights, "source": slice_.built.source},
        "input": recipe.input.to_manifest(),
        "outputs": [_output(output) for output in slice_.outputs],
        "default_output": recipe.default_output,
        "max_batch_size": recipe.max_batch_size,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "microtome": importlib.metadata.version("microtome"),
        },
    }
    check(document)
    return json.dumps(document, indent=1)


def check(document: object) -> None:
    """Hold a manifest to its schema.

    Raises:
        jsonschema.ValidationError: It does not keep to it.
    """
    jsonschema.validate(document, _schema(), format_checker=jsonschema.FormatChecker())


@functools.cache
def _schema() -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(_SCHEMA.read_text(encoding="utf-8"))
    return schema


def _output(output: SliceOutput) -> dict[str, Any]:
    return {
        "name": output.recipe.name,
        "layer": output.recipe.layer,
        "pooling": output.recipe.pooling,
        "projection": None,
        "shape": list(output.shape),
        "dtype": "float32",
        "params": output.params,
        "flops": output.flops,
        "quantization": None,
    }
