"""One export from beginning to end: prepare → calibrate → freeze → describe → draft → verify → publish."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf

from exporter.calibrating import Calibrated, calibrate
from exporter.findings import require
from exporter.fingerprint import fingerprint
from exporter.freezing import FrozenGraph, freeze
from exporter.heads import whole_head
from exporter.manifest import describe
from exporter.memory import give_back
from exporter.precision import fold_weight_casts, lowered
from exporter.precision_cost import measure, worst
from exporter.preparing import prepare, warn_of_long_vectors, warn_of_memory
from exporter.progress import stage, warn
from exporter.projection import Fitted
from exporter.projections_file import write_projections
from exporter.publication import ASSETS, MANIFEST_FILE, RECIPE_FILE, draft_version, want_free_version
from exporter.recipe import ModelRecipe
from exporter.saved_model import write_saved_model
from exporter.serving_configuration import BATCHING_FILE, batching_params, write_serving_configuration
from exporter.slicing import Slice
from exporter.verification import verify
from exporter.warmup import write_warmup


@dataclass(frozen=True, slots=True)
class Published:
    """A version that is there now.

    Attributes:
        path: `<models>/<name>/<version>`.
        manifest: As JSON text.
        seconds: From the first line of the recipe to the rename.
    """

    path: Path
    manifest: str
    seconds: float

    @property
    def size(self) -> int:
        """Bytes on the disk."""
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())

    def line(self) -> str:
        """Say what was published, on one line."""
        manifest = json.loads(self.manifest)
        outputs = ", ".join(f"{output['name']} {'x'.join(map(str, output['shape']))}" for output in manifest["outputs"])
        return (
            f"{manifest['model']} version {self.path.name} at {self.path}: {outputs}; "
            f"{self.size / 1e6:.1f} MB, {self.seconds:.1f} s"
        )


def export(recipe: ModelRecipe, models: Path, *, verified: bool = True, served_from: Path | None = None) -> Published:
    """Export a model and publish it as its next version.

    Args:
        recipe: The entry.
        models: The models directory.
        verified: Whether the version is verified before it is published.
        served_from: Where the model server will find the directory, if not there.

    Raises:
        ExporterError: See `exporter.errors`; nothing is published then.
    """
    started = time.monotonic()
    want_free_version(models, recipe)
    slice_ = prepare(recipe)
    warn_of_long_vectors(slice_)
    warn_of_memory(slice_)
    calibrated = calibrate(recipe, slice_)
    with stage(f"{recipe.name}: freezing {len(recipe.outputs)} outputs"):
        frozen = frozen_graph(slice_, calibrated.projections, recipe.precision)
    measured = measure(recipe, frozen, slice_, calibrated) if recipe.precision != "float32" else {}
    print_ = fingerprint(frozen, recipe.input, calibrated.ranges)
    manifest = describe(recipe, slice_, print_, calibrated, measured)
    with draft_version(models, recipe.name) as draft:
        with stage(f"{recipe.name}: writing"):
            _write(draft.directory, recipe, frozen, manifest, calibrated)
        del frozen  # the weights once more, which verifying does without
        give_back()
        if verified:
            with stage(f"{recipe.name}: verifying against Keras"):
                require(verify(draft.directory, slice_, calibrated.projections, worst_cosines=worst(measured)))
        with stage(f"{recipe.name}: publishing"):
            path = draft.publish(recipe.version)
    try:
        write_serving_configuration(models, served_from)
    except OSError as error:  # the version itself is there, and good
        warn(f"the configuration for TensorFlow Serving in {models} could not be written: {error.strerror or error}.")
    return Published(path, manifest, time.monotonic() - started)


def frozen_graph(slice_: Slice, projections: Mapping[str, Fitted], precision: str) -> FrozenGraph:
    """Freeze a slice as it will be served."""
    frozen = freeze(lowered(slice_, precision), whole_head(projections))
    if precision != "float32":
        frozen = fold_weight_casts(frozen)
    give_back()
    return frozen


def _write(directory: Path, recipe: ModelRecipe, frozen: FrozenGraph, manifest: str, calibrated: Calibrated) -> None:
    """Write all files of a version."""
    try:
        write_saved_model(directory, frozen, manifest)
        assets = directory / ASSETS
        assets.mkdir()
        (assets / MANIFEST_FILE).write_text(manifest, encoding="utf-8")
        (assets / RECIPE_FILE).write_text(recipe.canonical(), encoding="utf-8")
        write_projections(assets, calibrated.projections)
        write_warmup(assets, recipe)
        (directory / BATCHING_FILE).write_text(batching_params(recipe.max_batch_size), encoding="utf-8")
    except tf.errors.OpError as error:  # TensorFlow's file system does not raise OSError
        raise OSError(error.message) from error
