"""The export pipeline: check layers, prepare, calibrate, freeze, describe, write a draft, verify, publish."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from exporter.errors import (
    CutError,
    ImpossibleClasses,
    ImpossibleHead,
    ImpossibleInput,
    ImpossibleModel,
    ImpossiblePooling,
    ImpossibleProjection,
)
from exporter.head.embedding import pooled_head
from exporter.head.projection import Fitted, check_dimensions, fit_pca, project, random_projection, write_projections
from exporter.head.slicing import Slice, SliceOutput, find_output, prepare, warn_of_long_vectors, warn_of_memory
from exporter.models.building import build
from exporter.recipe.backbones import find_backbone
from exporter.recipe.files import image_files
from exporter.recipe.images import read_pixels
from exporter.recipe.own_backbones import PRESET_PREFIX
from exporter.recipe.preset_tokens import preset_tokens
from exporter.recipe.resolved import AUTO, ModelRecipe, OutputRecipe, Recipe
from exporter.recipe.yaml_tree import Loc, YamlTree
from exporter.runtime.memory import release
from exporter.runtime.terminal import counted, stage, warn
from exporter.savedmodel.fingerprint import fingerprint
from exporter.savedmodel.freezing import FrozenGraph, freeze, frozen_graph
from exporter.savedmodel.manifest import Arithmetic, Calibrated, Cosines, describe, described_classes
from exporter.savedmodel.publication import ASSETS, MANIFEST_FILE, RECIPE_FILE, draft_version, want_free_version
from exporter.savedmodel.saved_model import write_saved_model
from exporter.savedmodel.serving_files import BATCHING_FILE, batching_params, write_serving_configuration, write_warmup
from exporter.verify import golden_vectors
from exporter.verify.checks import require
from exporter.verify.keras_reference import reference
from exporter.verify.sample_images import cosines, golden_inputs, sample_pixels, with_images
from exporter.verify.verification import verify
from microtome import tokenization
from microtome.golden import INPUTS, SEED, relative_l2
from microtome.machine import cores
from microtome.manifest import InputSpec, TokensSpec

LARGEST_QUANTIZED = 16_384
_MOST_BYTES = 4 << 30
_BATCH = 8

Array = np.ndarray[Any, Any]


def calibrate(recipe: ModelRecipe, slice_: Slice) -> Calibrated:
    """Fit the projections and ranges that the recipe's outputs need.

    Raises:
        ImpossibleProjection: More dimensions are wanted than images or features allow, or than fit into memory.
        CalibrationImageBroken: An image cannot be decoded.
    """
    projections: dict[str, Fitted] = {
        output.recipe.name: random_projection(output.recipe.name, output.pooled[0], output.recipe.projection)
        for output in slice_.outputs
        if output.recipe.projection is not None and output.recipe.projection.kind == "random"
    }
    wanting = tuple(output for output in slice_.outputs if output.recipe.needs_calibration)
    if not wanting or recipe.calibration is None:
        return Calibrated(projections)
    files = image_files(Path(recipe.calibration.folder), recipe.calibration.images)
    check_memory({output.recipe: output.pooled for output in wanting}, len(files))
    for output in wanting:
        check_output(output.recipe, output.pooled, len(files))
    vectors = _features(recipe, replace(slice_, outputs=wanting), files)
    ranges = {}
    for output in wanting:
        name, wanted = output.recipe.name, output.recipe.projection
        if wanted is not None and wanted.kind == "pca":
            projections[name] = fit_pca(name, vectors[name], wanted)
        if output.recipe.quantization == "int8":
            ranges[name] = _ranges(vectors[name], output, projections.get(name))
    return Calibrated(projections, ranges, len(files))


def check_output(output: OutputRecipe, pooled: tuple[int, ...], images: int) -> None:
    """Check that an output can be projected and quantized as the recipe says.

    Args:
        output: The output's recipe.
        pooled: Shape of one image's features, before projection.
        images: Number of calibration images.

    Raises:
        ImpossibleProjection: It cannot.
    """
    if output.projection is not None:
        check_dimensions(output.name, output.projection, pooled[0], images)
    size = output.projection.dim if output.projection is not None else math.prod(pooled)
    if output.quantization == "int8" and size > LARGEST_QUANTIZED:
        raise ImpossibleProjection(
            f"Expected at most {LARGEST_QUANTIZED} dimensions for quantization: int8 of the output {output.name}. "
            f"Received: {size}. Pool it, or project it with pca or random."
        )


def check_memory(pooled: Mapping[OutputRecipe, tuple[int, ...]], images: int) -> None:
    """Check that the features of all images fit into memory together.

    Args:
        pooled: Shape of one image's features, for each output that needs calibration.
        images: Number of calibration images.

    Raises:
        ImpossibleProjection: They do not fit.
    """
    needed = 4 * images * sum(math.prod(shape) for shape in pooled.values())
    if needed > _MOST_BYTES:
        raise ImpossibleProjection(
            f"Expected calibration features of at most {_MOST_BYTES >> 30} GB. Received: {needed / (1 << 30):.1f} GB "
            f"for {images} images. Use pooling: avg instead of flatten, or fewer images (calibration: {{images: N}})."
        )


def _ranges(vectors: Array, output: SliceOutput, fitted: Fitted | None) -> tuple[Array, Array]:
    final = vectors.astype(np.float64).reshape(len(vectors), -1)
    if fitted is not None:
        final = project(final, fitted)
    if output.recipe.normalize == "l2":
        final = final / np.maximum(np.linalg.norm(final, axis=1, keepdims=True), 1e-6)
    return final.min(axis=0).astype(np.float32), final.max(axis=0).astype(np.float32)


def _features(recipe: ModelRecipe, slice_: Slice, files: Sequence[Path]) -> dict[str, Array]:
    """Run the images through the slice, each batch on one core, so that the result is the same on any machine."""
    pixels = recipe.pixels
    starts = range(0, len(files), _BATCH)
    found: dict[str, list[Array]] = {output.recipe.name: [] for output in slice_.outputs}
    with freeze(slice_, pooled_head).session(threads=1) as run, ThreadPoolExecutor(cores()) as pool:

        def run_batch(start: int) -> dict[str, Array]:
            return run(np.stack([read_pixels(path, pixels) for path in files[start : start + _BATCH]]))

        what = f"{recipe.name}: looking at the calibration images"
        for answers in counted(pool.map(run_batch, starts), len(starts), what):
            for output, vectors in answers.items():
                found[output].append(vectors)
    return {output: np.concatenate(parts) for output, parts in found.items()}


_IMAGES = 32
_TRIED, _TAKEN = ("bfloat16", "float16"), ("bfloat16",)
"""What `precision: auto` measures, and takes: float16 is for GPUs: processors compute it eleven times slower."""
HARMLESS = 0.9999
"""Least worst cosine with float32 at which `precision: auto` takes a lower precision."""


@dataclass(frozen=True, slots=True)
class Published:
    """A published version.

    Attributes:
        path: `<models>/<name>/<version>`.
        manifest: As JSON text.
        seconds: Duration of the export.
    """

    path: Path
    manifest: str
    seconds: float

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())

    def line(self) -> str:
        """Return a summary on one line."""
        manifest = json.loads(self.manifest)
        outputs = ", ".join(f"{output['name']} {'x'.join(map(str, output['shape']))}" for output in manifest["outputs"])
        return (
            f"{manifest['model']} version {self.path.name} at {self.path}: {outputs}; "
            f"{self.size / 1e6:.1f} MB, {self.seconds:.1f} s"
        )


def export(recipe: ModelRecipe, models: Path, *, verified: bool = True, served_from: Path | None = None) -> Published:
    """Export a model and publish it as its next version.

    Args:
        recipe: The model's recipe.
        models: The models directory.
        verified: Whether to verify the version before it is published.
        served_from: The directory's path on the model server; None for its path here.

    Raises:
        ExporterError: See `exporter.errors`; nothing is published then.
    """
    started = time.monotonic()
    want_free_version(models, recipe)
    slice_ = prepare(recipe)
    warn_of_long_vectors(slice_)
    warn_of_memory(slice_)
    calibrated = calibrate(recipe, slice_)
    frozen, arithmetic = frozen_as_asked(recipe, slice_, calibrated)
    classes = described_classes(slice_)
    identity = fingerprint(
        frozen, recipe.input, calibrated.ranges, recipe.tolerances, classes, precision=arithmetic.identity
    )
    with stage(f"{recipe.name}: recording golden vectors of Keras"):
        golden = golden_vectors.recorded(slice_, calibrated.projections)
    fast = isinstance(recipe.input, InputSpec) and recipe.input.decode == "fast"
    decoding = measure_decoding(recipe, frozen) if fast else {}
    manifest = describe(recipe, slice_, identity, calibrated, arithmetic, golden=golden, decoding=decoding)
    with draft_version(models, recipe.name) as draft:
        with stage(f"{recipe.name}: writing"):
            _write(draft.directory, recipe, frozen, manifest, calibrated)
        del frozen  # a copy of the weights, which verification does not need
        release()
        if verified:
            worst = {name: min(found.sample, found.worst) for name, found in arithmetic.cosines.items()}
            with stage(f"{recipe.name}: verifying against Keras"):
                require(verify(draft.directory, slice_, calibrated.projections, worst_cosines=worst))
        with stage(f"{recipe.name}: publishing"):
            path = draft.publish(recipe.version)
    try:
        write_serving_configuration(models, served_from)
    except OSError as error:  # the version itself is published
        warn(f"the configuration for TensorFlow Serving in {models} could not be written: {error.strerror or error}.")
    return Published(path, manifest, time.monotonic() - started)


def frozen_as_asked(recipe: ModelRecipe, slice_: Slice, calibrated: Calibrated) -> tuple[FrozenGraph, Arithmetic]:
    """Freeze a slice in the recipe's precision; of `auto`, in bfloat16 if that costs no output anything."""
    asked = recipe.precision
    tried: dict[str, dict[str, float] | None] = {}
    images = 0
    for name in _TRIED if asked == AUTO else () if asked == "float32" else (asked,):
        try:
            with stage(f"{recipe.name}: freezing {len(recipe.outputs)} outputs in {name}"):
                frozen = frozen_graph(slice_, calibrated.projections, name)
            cosines_, images = measure(recipe, name, frozen, slice_, calibrated)
        except ImpossibleModel:
            if asked != AUTO:
                raise
            tried[name] = None
            continue
        worst = {output: found.worst for output, found in cosines_.items()}
        tried |= {name: worst} if asked == AUTO else {}
        if asked != AUTO or (name in _TAKEN and all(one >= HARMLESS for one in worst.values())):
            return frozen, Arithmetic(name, asked, cosines_, images, tried)
        del frozen
    with stage(f"{recipe.name}: freezing {len(recipe.outputs)} outputs"):
        frozen = frozen_graph(slice_, calibrated.projections, "float32")
    return frozen, Arithmetic("float32", asked, images=images, tried=tried)


def measure(
    recipe: ModelRecipe, name: str, frozen: FrozenGraph, slice_: Slice, calibrated: Calibrated
) -> tuple[dict[str, Cosines], int]:
    """Compare a graph in lower precision with Keras in float32, by output name; also return on how many photos.

    The images are the sample images and some of the calibration images; the golden images are measured apart. A recipe
    that names the precision is warned of large differences, which the manifest has too.
    """
    files = image_files(Path(recipe.calibration.folder), _IMAGES) if recipe.calibration else []
    with stage(f"{recipe.name}: measuring {name} against float32"):
        golden = golden_inputs(recipe.input, SEED, INPUTS)
        pixels = np.concatenate([golden, with_images(recipe.input, files)])
        starts = range(0, len(pixels), _BATCH)
        with frozen.session() as run:
            parts = [run(pixels[start : start + _BATCH]) for start in starts]
        expected = reference(slice_, pixels, calibrated.projections)
    found = {}
    for output, wanted in expected.items():
        vectors = np.concatenate([part[output] for part in parts])
        deviation = float(relative_l2(vectors[:INPUTS], wanted[:INPUTS]).max())
        each = cosines(vectors[INPUTS:], wanted[INPUTS:])
        each = np.where(np.isfinite(each), each, -1.0)  # an overflow
        sample, photos = each[: len(each) - len(files)], each[len(each) - len(files) :]
        decides = photos if files else sample
        worst, middle, least = (round(float(one), 7) for one in (decides.min(), np.median(decides), sample.min()))
        found[output] = Cosines(worst, middle, least, deviation)
        if recipe.precision != AUTO and not worst >= HARMLESS:
            warn(
                f"in {name} the output {output} has a cosine of {middle:.5f} with float32 (median; worst {worst:.5f}), "
                "as its manifest says. Measure your own task, or say precision: float32 or auto."
            )
    return found, len(files)


def measure_decoding(recipe: ModelRecipe, frozen: FrozenGraph) -> dict[str, float]:
    """Return the worst cosine between vectors of `decode: fast` and of `balanced`, by output name.

    The images are some of the calibration images, or the sample images at another size where there are none.
    """
    with stage(f"{recipe.name}: measuring decode: fast against balanced"):
        files = image_files(Path(recipe.calibration.folder), _IMAGES) if recipe.calibration else []
        with TemporaryDirectory() as folder:
            if not files:
                # Half as large again as the input: resized as a photo is.
                height, width = recipe.pixels.height * 3 // 2, recipe.pixels.width * 3 // 2
                for number, pixels in enumerate(sample_pixels(height, width)):
                    files.append(Path(folder) / f"{number}.png")
                    Image.fromarray(pixels).save(files[-1])
            fast, balanced = (
                np.stack([read_pixels(path, replace(recipe.pixels, decode=way)) for path in files])
                for way in ("fast", "balanced")
            )
        with frozen.session() as run:
            actual, expected = run(fast), run(balanced)
    return {name: round(float(cosines(actual[name], expected[name]).min()), 7) for name in actual}


def _write(directory: Path, recipe: ModelRecipe, frozen: FrozenGraph, manifest: str, calibrated: Calibrated) -> None:
    """Write all files of a version."""
    tokenizer = b""
    if isinstance(recipe.input, TokensSpec):
        tokenizer = preset_tokens(recipe.backbone.removeprefix(PRESET_PREFIX)).packed
    try:
        write_saved_model(directory, frozen, manifest, tokenizer)
        assets = directory / ASSETS
        assets.mkdir()
        if tokenizer:
            (assets / tokenization.FILE).write_bytes(tokenizer)
        (assets / MANIFEST_FILE).write_text(manifest, encoding="utf-8")
        (assets / RECIPE_FILE).write_text(recipe.canonical(), encoding="utf-8")
        write_projections(assets, calibrated.projections)
        write_warmup(assets, recipe)
        (directory / BATCHING_FILE).write_text(batching_params(recipe.max_batch_size), encoding="utf-8")
    except tf.errors.OpError as error:  # TensorFlow's file system does not raise OSError
        raise OSError(error.message) from error


def check_layers(recipe: Recipe, wanted: Sequence[ModelRecipe]) -> None:
    """Check every output of some models of a recipe, before any weights are downloaded or read.

    Whether a layer exists and can be pooled and projected takes the architecture only, so the models are built with
    random weights.

    Raises:
        RecipeInvalid: With every problem in all these models, in the order of the file.
    """
    for index, model in enumerate(recipe.models):
        if model in wanted:
            with stage(f"{model.name}: looking for its layers in {model.backbone}"):
                _check_model(recipe.tree, ("models", index), model)
    recipe.tree.finish()


def _check_model(tree: YamlTree, loc: Loc, model: ModelRecipe) -> None:
    keras.utils.clear_session()  # restarts the numbering of unnamed layers, as in the export
    row = find_backbone(model.backbone, model.weights)
    try:
        built = build(row, None, model.input, include_top=model.include_top)
    except CutError as error:
        too_small = isinstance(error, ImpossibleInput) and "input" in tree.keys(loc)
        tree.note((*loc, "input" if too_small else "backbone"), error)
        return
    calibration = model.calibration
    images = len(image_files(Path(calibration.folder), calibration.images)) if calibration is not None else 0
    wanting: dict[OutputRecipe, tuple[int, ...]] = {}
    for index, output in enumerate(model.outputs):
        try:
            _, _, pooled = find_output(built.model, output)
            check_output(output, pooled, images)
        except CutError as error:
            at = (*loc, "outputs", index)
            tree.note((*at, *_key(tree.keys(at), error)), error)
        else:
            wanting |= {output: pooled} if output.needs_calibration else {}
    try:
        check_memory(wanting, images)
    except ImpossibleProjection as error:
        tree.note((*loc, "calibration"), error)


def _key(given: Sequence[str], error: CutError) -> tuple[str, ...]:
    """Return the key of an output that must change, if it is among the given ones."""
    keys = {
        ImpossiblePooling: ("pooling",),
        ImpossibleClasses: ("labels",),
        ImpossibleHead: ("head",),
        ImpossibleProjection: ("projection", "quantization"),
    }.get(type(error), ())
    return tuple(key for key in (*keys, "layer", "layers") if key in given)[:1]
