"""Write down what a SavedModel is: the manifest, checked against the contract in protos/."""

from __future__ import annotations

import functools
import importlib.metadata
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import keras
import tensorflow as tf

import exporter
from exporter.calibrating import Calibrated, described
from exporter.precision_cost import Cost
from exporter.recipe import ModelRecipe
from exporter.slicing import Slice, SliceOutput

_SCHEMA = Path(exporter.__file__).with_name("manifest.schema.json")


def describe(
    recipe: ModelRecipe,
    slice_: Slice,
    fingerprint: str,
    calibrated: Calibrated,
    costs: Mapping[str, Cost],
) -> str:
    """Return the manifest as JSON text, valid by its schema.

    The same text goes into the `manifest` signature and into `assets.extra/manifest.json`.

    Args:
        recipe: The entry.
        slice_: What it was cut to.
        fingerprint: Of the frozen graph.
        calibrated: What projections and ranges came to.
        costs: Of a lower precision, by output name; empty for float32.
    """
    document = {
        "schema": 1,
        "model": recipe.name,
        "fingerprint": fingerprint,
        "backbone": {"name": _name(recipe.backbone), "weights": _name(slice_.built.weights),
                     "source": slice_.built.source},
        "input": recipe.input.to_manifest(),
        "outputs": [_output(output, calibrated) for output in slice_.outputs],
        "default_output": recipe.default_output,
        "max_batch_size": recipe.max_batch_size,
        "precision": {
            "compute": recipe.precision,
            "worst_cosine": {name: cost.worst for name, cost in costs.items()} or None,
            "median_cosine": {name: cost.median for name, cost in costs.items()} or None,
        },
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "microtome": importlib.metadata.version("microtome"),
        },
    }  # fmt: skip
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


def _name(text: str) -> str:
    """Leave the folder out of a file's path: where it lay here means nothing to those who read the manifest."""
    return Path(text).name if Path(text).is_absolute() else text


def _output(output: SliceOutput, calibrated: Calibrated) -> dict[str, Any]:
    return {
        "name": output.recipe.name,
        "layer": " + ".join(output.recipe.layers),
        "pooling": output.recipe.pooling,
        "normalize": output.recipe.normalize,
        "shape": list(output.shape),
        "dtype": "float32",
        "params": output.params,
        "flops": output.flops,
        **described(output, calibrated),
    }
