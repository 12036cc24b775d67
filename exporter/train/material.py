"""What a training learns from: photos in classes, divided into training and held-out ones, and their features."""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from exporter.errors import ImpossibleHead, ImpossibleOption
from exporter.export import calibrate
from exporter.features.logistic import folds
from exporter.features.photos import Collection, Photo, check_classes, check_splits, held_out
from exporter.features.store import FeatureStore, State, extract, near_copies
from exporter.head.slicing import Slice, prepare
from exporter.recipe.images import read_pixels
from exporter.recipe.preprocessing import recorded
from exporter.recipe.resolved import AUTO, ModelRecipe, OutputRecipe
from exporter.runtime.terminal import stage, warn
from exporter.savedmodel.fingerprint import fingerprint
from exporter.savedmodel.freezing import FrozenGraph, frozen_graph
from exporter.train.heads import fold_count
from microtome.manifest import InputSpec
from microtome.preprocessing import as_image

HELD_OUT_FOLDS = 5
_SMALLEST_CROP = 0.6

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Material:
    """Photos, their classes and their features.

    Attributes:
        recipe: The model.
        output: Its output whose vectors are learnt from.
        slice_: The model cut there.
        collection: The photos, without those that were left out.
        classes: Names of the classes, by label.
        labels: Of each photo, int [photos].
        units: What each photo is of: its group, and copies of it; int [photos].
        held: Whether each photo is held out, bool [photos].
        given: Whether the folder or list said which ones are held out.
        vectors: float32 [photos, dimensions].
        altered: Vectors of altered copies, float32 [copies, photos, dimensions]; those of held-out photos are 0.
    """

    recipe: ModelRecipe
    output: OutputRecipe
    slice_: Slice
    collection: Collection
    classes: tuple[str, ...]
    labels: Array
    units: Array
    held: Array
    given: bool
    vectors: Array
    altered: Array

    @property
    def photos(self) -> tuple[Photo, ...]:
        """The photos."""
        return self.collection.photos


def gather(  # noqa: PLR0913, PLR0917 -- what the user said
    recipe: ModelRecipe,
    output: OutputRecipe,
    collection: Collection,
    out: Path,
    copies: int,
    seed: int,
    check: Callable[[Slice], object] = lambda _: None,
) -> Material:
    """Compute the features of all photos, and divide the photos.

    Args:
        recipe: The model.
        output: Its output whose vectors are learnt from.
        collection: The photos.
        out: Folder of the results; features are kept below it.
        copies: Altered copies of each training photo.
        seed: Of the division and of the copies.
        check: Sees the slice before any features are computed.

    Raises:
        ExporterError: The backbone cannot be built or cut, or too few photos are left.
    """
    held = held_out(collection.photos)
    given = bool(held.any())
    outputs = (replace(output, normalize="none", quantization="none"),)
    found = features_of(recipe, outputs, collection.photos, out, check=check, hint="avg", held=held, copies=copies,
                        seed=seed)  # fmt: skip
    without, keep, units = usable(collection.photos, found, held)
    rest = _rest(collection, without, keep)
    classes, labels = np.unique([str(photo.label) for photo in rest.photos], return_inverse=True)
    held = held[keep] if given else hold_out(labels, units, seed)
    material = Material(
        recipe, output, found.slice_, rest, tuple(map(str, classes)), labels, units, held, given,
        found.vectors[output.name][keep], found.altered[:, keep],
    )  # fmt: skip
    fold_count(labels[~held], units[~held])
    return material


@dataclass(frozen=True, slots=True)
class Features:
    """The vectors of all photos.

    Attributes:
        slice_: The model, cut at the outputs.
        problems: What is wrong with each photo that cannot be decoded, by index.
        there: Whether each photo has vectors, bool [photos].
        hashes: Perceptual ones, uint64 [photos, 4].
        vectors: float32 [photos, dimensions], by output; rows of photos that are not there are 0.
        altered: Of altered copies by the first output, float32 [copies, photos, dimensions]; 0 for held-out photos.
    """

    slice_: Slice
    problems: dict[int, str]
    there: Array
    hashes: Array
    vectors: dict[str, Array]
    altered: Array


def features_of(  # noqa: PLR0913 -- what the user said
    recipe: ModelRecipe,
    outputs: tuple[OutputRecipe, ...],
    photos: Sequence[Photo],
    out: Path,
    *,
    check: Callable[[Slice], object] = lambda _: None,
    hint: str,
    held: Array | None = None,
    copies: int = 0,
    seed: int = 0,
) -> Features:
    """Compute the vectors of all photos by some outputs, in one pass, or take them from an earlier run.

    Args:
        recipe: The model.
        outputs: What is computed; the first is the one that is learnt from.
        photos: Their files.
        out: Folder of the results; features are kept below it.
        check: Sees the slice before any features are computed.
        hint: A pooling to say where the first output has no vectors.
        held: Which photos have no altered copies, bool [photos]; none of them if left out.
        copies: Altered copies of each other photo.
        seed: Of the copies.

    Raises:
        ExporterError: The backbone cannot be built or cut.
    """
    output = outputs[0]
    slice_ = prepare(replace(recipe, outputs=outputs))
    if len(slice_.outputs[0].shape) != 1:
        raise ImpossibleHead(
            f"Expected an output with vectors to train on. Received: {output.name} of {slice_.outputs[0].shape}. "
            f"Say pooling: {hint}."
        )
    check(slice_)
    precision = "float32" if recipe.precision == AUTO else recipe.precision
    with stage(f"{recipe.name}: freezing {output.name}"):
        graph = frozen_graph(slice_, calibrate(recipe, slice_).projections, precision)
    held = np.zeros(len(photos), bool) if held is None else held
    of = np.concatenate([np.arange(len(held)), *[np.flatnonzero(~held)] * copies])
    kinds = np.concatenate([np.zeros(len(held), np.int64),
                            *(np.full((~held).sum(), kind) for kind in range(1, copies + 1))])  # fmt: skip
    read = _Reader(photos, of, kinds, recipe.pixels, seed)
    lengths = {one.recipe.name: math.prod(one.shape) for one in slice_.outputs}
    with FeatureStore.opened(_folder(out, recipe, output), lengths, len(of), _head(recipe, graph, read)) as store:
        problems = extract(graph, read, store, f"{recipe.name}: computing vectors")
        there = np.asarray(store.states) == State.DONE
        whole = np.flatnonzero(kinds == 0)
        vectors = {name: np.array(store.vectors(name)[whole]) for name in lengths}
        altered = np.zeros((copies, *vectors[output.name].shape), np.float32)
        for row in np.flatnonzero((kinds > 0) & there):
            altered[kinds[row] - 1, of[row]] = store.vectors(output.name)[row]
        return Features(slice_, problems, there[whole], np.array(store.hashes[whole]), vectors, altered)


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads photos, and makes altered copies of them."""

    photos: Sequence[Photo]
    of: Array
    kinds: Array
    spec: InputSpec
    seed: int

    def __call__(self, index: int) -> Array:
        photo, kind = self.photos[self.of[index]], int(self.kinds[index])
        pixels = read_pixels(photo.path, self.spec)
        return pixels if not kind else altered(pixels, int(photo.digest[:15], 16) + self.seed + kind)


def altered(pixels: Array, seed: int) -> Array:
    """Return a crop of 60 to 100 % of a photo's area, at its own size, mirrored in half of the cases."""
    numbers = np.random.default_rng(seed)
    height, width = pixels.shape[:2]
    side = float(np.sqrt(numbers.uniform(_SMALLEST_CROP, 1.0)))
    top, left = numbers.uniform(0, 1 - side, 2)
    box = (left * width, top * height, (left + side) * width, (top + side) * height)
    image = as_image(pixels).resize((width, height), Image.Resampling.BILINEAR, box=box)
    found = np.array(image, dtype=np.uint8).reshape(pixels.shape)
    return np.ascontiguousarray(found[:, ::-1]) if numbers.random() < 0.5 else found


def _head(recipe: ModelRecipe, graph: FrozenGraph, read: _Reader) -> dict[str, Any]:
    """Return all that decides the features of a store."""
    return {
        "fingerprint": fingerprint(graph, recipe.pixels),
        "photos": [read.photos[of].digest for of in read.of],
        "copies": [int(kind) for kind in read.kinds],
        "seed": read.seed if read.kinds.any() else 0,
    }


def _folder(out: Path, recipe: ModelRecipe, output: OutputRecipe) -> Path:
    names = json.dumps([recipe.name, recipe.backbone, recipe.weights, recorded(recipe.pixels), output.name])
    return out / "features" / hashlib.sha256(names.encode()).hexdigest()[:16]


def usable(photos: Sequence[Photo], found: Features, held: Array) -> tuple[dict[str, str], Array, Array]:
    """Leave out what cannot be decoded, copies across classes, and training photos that are copies of held-out ones.

    Args:
        photos: All of them.
        found: Their features.
        held: Whether a folder or list holds each out, bool [photos].

    Returns:
        Names of photos that are left out, with the reason; indices of the others; and the unit of each of the others.
    """
    out = {
        photos[index].name: problem.split("Received: ")[-1]
        for index, problem in sorted(found.problems.items())
        if index < len(photos)
    }
    there = found.there.copy()
    twins = near_copies(found.hashes, found.there, range(len(photos)))
    for one, other in [pair for twin in twins for pair in (twin, twin[::-1])]:
        if photos[one].label != photos[other].label:
            out[photos[one].name] = f"all but equal to {photos[other].name}, which is in another class"
            there[one] = False
        elif held[other] and not held[one]:
            out[photos[one].name] = f"all but equal to {photos[other].name}, which is held out"
            there[one] = False
    keep = np.flatnonzero(there)
    place = np.full(len(photos), -1)
    place[keep] = np.arange(len(keep))
    pairs = [(int(place[a]), int(place[b])) for a, b in twins if min(place[a], place[b]) >= 0]
    return out, keep, _units([photos[index] for index in keep.tolist()], pairs)


def _rest(collection: Collection, out: dict[str, str], keep: Array) -> Collection:
    """Return the photos that are kept, and say which ones are left out.

    Raises:
        ImpossibleOption: None can be decoded, none of a class can, or too few are left.
    """
    photos = collection.photos
    out = {**dict(collection.left_out), **out}
    for name, why in out.items():
        warn(f"left out: {name}: {why}")
    if not len(keep):
        raise ImpossibleOption("Expected photos that can be decoded. Received: none of them can.")
    found = replace(collection, photos=tuple(photos[index] for index in keep), left_out=tuple(out.items()))
    check_classes(found, "the photos that are left")
    check_splits(found)
    gone = sorted({str(photo.label) for photo in photos} - {str(photo.label) for photo in found.photos})
    if gone:
        raise ImpossibleOption(
            f"Expected photos of each class that can be decoded. Received: none of {', '.join(gone[:5])}."
        )
    return found


def _units(photos: Sequence[Photo], twins: Sequence[tuple[int, int]]) -> Array:
    """Return the unit of each photo: its group, joined with those of its copies."""
    names = [photo.name if photo.group is None else photo.group for photo in photos]
    _, unit_of = np.unique(names, return_inverse=True)
    for one, other in twins:
        unit_of[unit_of == unit_of[other]] = unit_of[one]
    _, unit_of = np.unique(unit_of, return_inverse=True)
    return np.asarray(unit_of)


def hold_out(labels: Array, units: Array, seed: int) -> Array:
    """Hold out a fifth of the photos of each class, whole units; a class keeps photos to train on."""
    count = min(HELD_OUT_FOLDS, fold_count(labels, units))
    _, test = folds(count, labels, units, seed)[0]
    held = np.zeros(len(labels), bool)
    held[test] = True
    for label in np.unique(labels):
        if held[labels == label].all():
            held[np.isin(units, units[labels == label])] = False
    if not held.any():
        raise ImpossibleOption(
            "Expected enough photos or groups to hold some out. Received: each class has one group. Add photos, or "
            "group them otherwise."
        )
    return held
