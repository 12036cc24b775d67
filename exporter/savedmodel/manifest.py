"""Describe a SavedModel: the manifest, valid by the schema in protos/."""

import functools
import importlib.metadata
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import jsonschema
import keras
import numpy as np
import tensorflow as tf

import exporter
from exporter.head.projection import Fitted, FittedPca
from exporter.head.slicing import Slice, SliceOutput
from exporter.recipe.labels import labels_of
from exporter.recipe.resolved import AUTO, ModelRecipe
from microtome.manifest import TOLERANCES, Golden

_SCHEMA = Path(exporter.__file__).with_name("manifest.schema.json")
"""Of version 2. Version 1 differs by what it lacks, and nothing writes it any more."""

_NUMBERS = re.compile(r"\[\n[-+0-9.eE,\s]+\]")
"""A list of numbers, one on each line."""
_NO_CLASSES = dict.fromkeys(("labels", "activation", "temperature", "threshold", "units"))
_MARGIN = 2.0
"""Other processors round a lower precision differently."""

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
        worst: The smallest on calibration images; without those, on the sample images.
        median: The median, likewise.
        sample: The smallest on the sample images; some have no structure, and their vectors are mostly rounding.
        golden: Deviation from the golden vectors, relative L2.
    """

    worst: float
    median: float
    sample: float
    golden: float = 0.0


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """What a graph computes in, and what that costs.

    Attributes:
        name: `float32`, `bfloat16` or `float16`.
        asked: What the recipe says.
        cosines: With float32, by output; empty for float32.
        images: Calibration images that they were measured on.
        tried: Of `precision: auto`: the worst cosine of each output, by arithmetic; None where a layer has no such.
    """

    name: str
    asked: str
    cosines: Mapping[str, Cosines] = field(default_factory=dict)
    images: int = 0
    tried: Mapping[str, Mapping[str, float] | None] = field(default_factory=dict)

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Self:
        """Return what a manifest says, without cosines."""
        said = document.get("precision") or {}
        name = said.get("arithmetic") or said.get("compute") or "float32"
        return cls(name, said.get("asked", name), tried=said.get("tried", {}))

    @property
    def identity(self) -> dict[str, Any]:
        """What the fingerprint covers beside the graph: of `precision: auto`, the decision and its figures.

        They are rounded down to the four decimals that decide, because processors differ in the later ones. Nothing
        where the recipe names the arithmetic, as in recipes from before.
        """
        if self.asked != AUTO:
            return {}
        tried = {
            name: None if found is None else {output: math.floor(1e4 * worst) / 1e4 for output, worst in found.items()}
            for name, found in self.tried.items()
        }
        return {"arithmetic": self.name, "tried": tried}

    @property
    def described(self) -> dict[str, Any]:
        """The manifest's `precision`."""
        found: dict[str, Any] = {
            "arithmetic": self.name,
            "asked": self.asked,
            "worst_cosine": {name: one.worst for name, one in self.cosines.items()},
        }
        if self.cosines:
            found["median_cosine"] = {name: one.median for name, one in self.cosines.items()}
            found["sample_cosine"] = {name: one.sample for name, one in self.cosines.items()}
        if self.cosines or self.tried:
            found["images"] = self.images
        return found | ({"tried": dict(self.tried)} if self.tried else {})


def describe(  # noqa: PLR0913, all that a manifest says
    recipe: ModelRecipe,
    slice_: Slice,
    fingerprint: str,
    calibrated: Calibrated,
    arithmetic: Arithmetic,
    *,
    golden: Golden,
    decoding: Mapping[str, float] | None = None,
) -> str:
    """Return the manifest as JSON text, for the `manifest` signature and `assets.extra/manifest.json`.

    Args:
        recipe: The model's recipe.
        slice_: The cut backbone.
        fingerprint: Of the frozen graph.
        calibrated: Projections and ranges.
        arithmetic: What the graph computes in.
        golden: What Keras answers to the synthetic images.
        decoding: Worst cosine between `decode: fast` and `balanced`, by output name; empty or None for the others.

    Raises:
        jsonschema.ValidationError: The manifest violates its schema.
    """
    classes = described_classes(slice_)
    document = {
        "schema": 2,
        "model": recipe.name,
        "fingerprint": fingerprint,
        "backbone": {"name": _file_name(recipe.backbone), "weights": _file_name(slice_.built.weights),
                     "source": slice_.built.source},
        **_family(recipe, slice_),
        "input": asdict(recipe.input),
        "outputs": [
            {**_output(output, calibrated), "tolerance": _tolerance(output, arithmetic),
             "kind": _kind(output), **_NO_CLASSES, **classes.get(output.recipe.name, {})}
            for output in slice_.outputs
        ],
        "golden": json.loads(json.dumps(asdict(golden))),  # with lists for tuples
        "default_output": recipe.default_output,
        "max_batch_size": recipe.max_batch_size,
        "precision": {**arithmetic.described, **({"decode_cosine": dict(decoding)} if decoding else {})},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "microtome": importlib.metadata.version("microtome"),
        },
    }  # fmt: skip
    check(document)
    return _NUMBERS.sub(lambda found: " ".join(found[0].split()), json.dumps(document, indent=1))


def _family(recipe: ModelRecipe, slice_: Slice) -> dict[str, Any]:
    if recipe.family is None or (space := slice_.built.space) is None:
        return {}
    told = {"family": recipe.family, "tower": recipe.tower, "space": space.identity}
    return told | ({"similarity": asdict(space.similarity)} if space.similarity else {})


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


def described_classes(slice_: Slice) -> dict[str, dict[str, Any]]:
    """Return what a vector's numbers mean, by name of each output of classes or numbers.

    It is part of the manifest and of the fingerprint: what turns logits into labels, or names and units.
    """
    found: dict[str, dict[str, Any]] = {
        output.recipe.name: {
            "labels": [asdict(label) for label in labels_of(output.recipe)],
            "activation": output.recipe.activation,
            "temperature": output.recipe.temperature,
            "threshold": output.recipe.threshold,
        }
        for output in slice_.outputs
        if output.recipe.kind == "classes"
    }
    for output in slice_.outputs:
        if output.recipe.kind == "numbers":
            units = output.recipe.units and list(output.recipe.units)
            names = [asdict(label) for label in labels_of(output.recipe)]
            found[output.recipe.name] = {"kind": "numbers", "labels": names, "units": units}
    return found


def _kind(output: SliceOutput) -> str:
    if output.recipe.kind != "embedding":
        return output.recipe.kind
    return "embedding" if len(output.shape) == 1 else "map"


def _tolerance(output: SliceOutput, arithmetic: Arithmetic) -> float:
    """Return the recipe's tolerance, or that of its precision, or of what was measured where that is larger."""
    if output.recipe.tolerance is not None:
        return output.recipe.tolerance
    usual, cosines = TOLERANCES[arithmetic.name], arithmetic.cosines
    measured = cosines[output.recipe.name].golden if output.recipe.name in cosines else 0.0
    return max(usual, min(1.0, float(f"{_MARGIN * measured:.1e}")))


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
