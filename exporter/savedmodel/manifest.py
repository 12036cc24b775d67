"""Describe a SavedModel: the manifest, valid by the schema in protos/."""

import functools
import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import keras
import numpy as np
import tensorflow as tf

import exporter
from exporter.head.projection import Fitted, FittedPca
from exporter.head.slicing import Slice, SliceOutput
from exporter.recipe.resolved import ModelRecipe

_SCHEMA = Path(exporter.__file__).with_name("manifest.schema.json")

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Calibrated:
    """The result of calibration.

    Attributes:
        projections: By output name.
        ranges: Smallest and largest value of each dimension, float32 [d] each, by output name.
        images: Number of calibration images.
    """

    projections: Mapping[str, Fitted] = field(default_factory=dict)
    ranges: Mapping[str, tuple[Array, Array]] = field(default_factory=dict)
    images: int = 0


@dataclass(frozen=True, slots=True)
class Cosines:
    """Cosines between an output's vectors in lower precision and in float32.

    Attributes:
        worst: The smallest; often that of a sample image without structure, whose vector is mostly rounding.
        median: The median.
    """

    worst: float
    median: float


def describe(
    recipe: ModelRecipe, slice_: Slice, fingerprint: str, calibrated: Calibrated, cosines: Mapping[str, Cosines]
) -> str:
    """Return the manifest as JSON text, for the `manifest` signature and `assets.extra/manifest.json`.

    Args:
        recipe: The model's recipe.
        slice_: The cut backbone.
        fingerprint: Of the frozen graph.
        calibrated: Projections and ranges.
        cosines: Of a lower precision, by output name; empty for float32.

    Raises:
        jsonschema.ValidationError: The manifest violates its schema.
    """
    document = {
        "schema": 1,
        "model": recipe.name,
        "fingerprint": fingerprint,
        "backbone": {"name": _file_name(recipe.backbone), "weights": _file_name(slice_.built.weights),
                     "source": slice_.built.source},
        "input": asdict(recipe.input),
        "outputs": [_output(output, calibrated) for output in slice_.outputs],
        "default_output": recipe.default_output,
        "max_batch_size": recipe.max_batch_size,
        "precision": {
            "compute": recipe.precision,
            "worst_cosine": {name: found.worst for name, found in cosines.items()} or None,
            "median_cosine": {name: found.median for name, found in cosines.items()} or None,
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
    """Check a manifest by its schema.

    Raises:
        jsonschema.ValidationError: It violates the schema.
    """
    jsonschema.validate(document, _schema(), format_checker=jsonschema.FormatChecker())


@functools.cache
def _schema() -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(_SCHEMA.read_text(encoding="utf-8"))
    return schema


def _file_name(text: str) -> str:
    """Return a path's file name, because the folder on this machine means nothing elsewhere; other text unchanged."""
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
        "projection": _projection(output, calibrated),
        "quantization": _quantization(output, calibrated),
    }


def _projection(output: SliceOutput, calibrated: Calibrated) -> dict[str, Any] | None:
    wanted = output.recipe.projection
    if wanted is None:
        return None
    fitted = calibrated.projections[output.recipe.name]
    projection = {"kind": wanted.kind, "from": output.pooled[0], "dim": wanted.dim}
    if not isinstance(fitted, FittedPca):
        return {**projection, "seed": wanted.seed}
    return {
        **projection,
        "whiten": wanted.whiten,
        "images": calibrated.images,
        "explained_variance": round(sum(fitted.explained), 6),
        "explained_variance_ratio": list(fitted.explained),
    }


def _quantization(output: SliceOutput, calibrated: Calibrated) -> dict[str, Any] | None:
    if output.recipe.name not in calibrated.ranges:
        return None
    low, high = calibrated.ranges[output.recipe.name]
    return {"scheme": "int8", "min": low.tolist(), "max": high.tolist(), "images": calibrated.images}
