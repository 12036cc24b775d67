"""One export from beginning to end: build → cut → freeze → describe → draft → verify → publish."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import keras
import tensorflow as tf

from exporter.backbones import find_backbone
from exporter.building import build
from exporter.fingerprint import fingerprint
from exporter.freezing import FrozenGraph, freeze
from exporter.manifest import describe
from exporter.progress import stage
from exporter.publication import ASSETS, MANIFEST_FILE, RECIPE_FILE, draft_version
from exporter.recipe import ModelRecipe
from exporter.saved_model import write_saved_model
from exporter.slicing import cut
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


def export(recipe: ModelRecipe, models: Path) -> Published:
    """Export a model and publish it as its next version.

    Raises:
        ExporterError: See `exporter.errors`; nothing is published then.
    """
    started = time.monotonic()
    keras.utils.clear_session()  # the model before this one must not stay in memory
    with stage(f"{recipe.name}: building {recipe.backbone} with {recipe.weights} weights"):
        built = build(find_backbone(recipe.backbone), recipe.weights, recipe.input)
        slice_ = cut(built, recipe)
    with stage(f"{recipe.name}: freezing {len(recipe.outputs)} outputs"):
        frozen = freeze(slice_, recipe.input)
        manifest = describe(recipe, slice_, fingerprint(frozen, recipe.input))
    with draft_version(models, recipe.name) as draft:
        with stage(f"{recipe.name}: writing"):
            _write(draft.directory, recipe, frozen, manifest)
        with stage(f"{recipe.name}: verifying against Keras"):
            verify(draft.directory, slice_)
        path = draft.publish()
    return Published(path, manifest, time.monotonic() - started)


def _write(directory: Path, recipe: ModelRecipe, frozen: FrozenGraph, manifest: str) -> None:
    """Write all files of a version."""
    try:
        write_saved_model(directory, frozen, manifest)
        assets = directory / ASSETS
        assets.mkdir()
        (assets / MANIFEST_FILE).write_text(manifest, encoding="utf-8")
        (assets / RECIPE_FILE).write_text(recipe.canonical(), encoding="utf-8")
        write_warmup(assets, recipe.name, recipe.input, recipe.max_batch_size)
    except tf.errors.OpError as error:  # TensorFlow's file system does not raise OSError
        raise OSError(error.message) from error
