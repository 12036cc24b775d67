"""Turn photos and a use into a task: who looks for whom, what counts as found, and what is resampled."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from exporter.errors import ImpossibleOption, nearest
from exporter.features.photos import Collection, Photo, Use
from exporter.features.resampling import resamples
from exporter.recipe.images import read_pixels
from exporter.sweep.measures import NEIGHBOURS, RECALLS, Neighbours, Pairs, Task
from exporter.sweep.request import Request
from microtome.manifest import InputSpec
from microtome.preprocessing import as_image

MEASURES: dict[Use, tuple[str, ...]] = {
    "search": (*(f"recall@{count}" for count in RECALLS), "mAP"),
    "classify": (f"{NEIGHBOURS}-NN", "1-NN"),
    "duplicates": ("PR area",),
}
"""What can decide for each use; the first does where nothing else is asked for."""

VIEWS = ("as it is", "centre 70 %", "JPEG quality 30", "mirrored", "grey")
"""What unlabelled photos are made into, to be found again."""

MOST_COMPARISONS = 25_000_000
_MOST_MADE = 500
_MOST_PAIRS = 10_000
_DIFFERENT_PER_SAME = 10

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Views:
    """The images whose vectors are computed: photos, and for unlabelled ones some that are made of them.

    Attributes:
        photos: The photos.
        of: Index of each image's photo.
        kinds: Index of each image's view among `VIEWS`.
    """

    photos: Sequence[Photo]
    of: Array
    kinds: Array

    def read(self, index: int, spec: InputSpec) -> Array:
        """Return an image's pixels, uint8 [height, width, channels].

        Raises:
            CalibrationImageBroken: It cannot be decoded.
        """
        return _made(read_pixels(self.photos[self.of[index]].path, spec), VIEWS[self.kinds[index]])


def views_of(collection: Collection, seed: int) -> Views:
    """Return a collection's images: its photos, and four views of each of at most 500 of unlabelled ones."""
    count = len(collection.photos)
    of, kinds = [np.arange(count)], [np.zeros(count, np.int64)]
    if collection.kind == "unlabelled":
        chosen = np.sort(np.random.default_rng(seed).permutation(count)[:_MOST_MADE])
        for kind in range(1, len(VIEWS)):
            of.append(chosen)
            kinds.append(np.full(len(chosen), kind))
    return Views(collection.photos, np.concatenate(of), np.concatenate(kinds))


def _made(pixels: Array, view: str) -> Array:
    height, width = pixels.shape[:2]
    if view == "mirrored":
        return np.ascontiguousarray(pixels[:, ::-1])
    image = as_image(pixels)
    if view == "grey":
        image = image.convert("LA" if image.mode == "RGBA" else "L").convert(image.mode)
    elif view == "JPEG quality 30":
        encoded = BytesIO()
        as_image(pixels[..., :3]).save(encoded, "JPEG", quality=30)
        image = Image.open(encoded).convert(image.mode)
        if image.mode == "RGBA":
            image.putalpha(Image.fromarray(pixels[..., 3]))
    elif view == "centre 70 %":
        margin = (round(width * 0.15), round(height * 0.15))
        box = (*margin, width - margin[0], height - margin[1])
        image = image.resize((width, height), Image.Resampling.BILINEAR, box=box)
    return np.array(image, dtype=np.uint8).reshape(pixels.shape)


def measure_for(use: Use, asked: str | None) -> str:
    """Return the measure that decides.

    Raises:
        ImpossibleOption: The use has no such measure.
    """
    if asked is not None and asked not in MEASURES[use]:
        raise ImpossibleOption(
            f"Expected --measure {' or '.join(MEASURES[use])} with --for {use}. Received: {asked!r}. "
            f"{nearest(asked, MEASURES[use])}"
        )
    return asked or MEASURES[use][0]


@dataclass(frozen=True, slots=True)
class Setting:
    """A task, and what it leaves out.

    Attributes:
        task: The task.
        rows: Index of each of the task's images among all.
        of: Index of each of the task's images' photo.
        kinds: Index of each of the task's images' view.
        classes: Names of the classes, by label; empty without labels.
        notes: What was sampled, in sentences.
    """

    task: Task
    rows: Array
    of: Array
    kinds: Array
    classes: tuple[str, ...]
    notes: tuple[str, ...]


def setting(collection: Collection, views: Views, there: Array, request: Request) -> Setting:
    """Return the task for a use.

    Args:
        collection: The photos.
        views: Their images.
        there: Whether each image has vectors and takes part, bool [images].
        request: Has the use, the measure that decides, and the seed.

    Raises:
        ImpossibleOption: Too few photos are left.
    """
    use, seed, rows = request.use, request.seed, np.flatnonzero(there)
    photos = [collection.photos[index] for index in views.of[rows]]
    images = (views.of[rows], views.kinds[rows])
    if collection.kind == "pairs":
        places = {int(views.of[row]): place for place, row in enumerate(rows)}
        pairs = [(places[a], places[b], same) for a, b, same in collection.pairs if a in places and b in places]
        if len({same for *_, same in pairs}) < 2:
            raise ImpossibleOption("Expected pairs of both kinds among the photos that can be decoded. Received: one.")
        first, second, same = np.array(pairs, np.int64).T
        units, unit_of = _units(photos)
        task: Task = Pairs(first, second, same > 0, unit_of, resamples(units, seed))
        return Setting(task, rows, *images, (), ())
    if collection.kind == "unlabelled":
        classes: tuple[str, ...] = ()
        # A copy is to find its original, or another photo of its group.
        units, unit_of = _units(photos)
        labels = unit_of
        groups = np.arange(len(rows))
        made = views.kinds[rows] > 0
        queries, gallery = np.flatnonzero(made), np.flatnonzero(~made)
    else:
        names, labels = np.unique([str(photo.label) for photo in photos], return_inverse=True)
        classes = tuple(str(name) for name in names)
        units, unit_of = _units(photos)
        groups = unit_of
        queries = gallery = np.arange(len(rows))
    numbers = np.random.default_rng(seed)
    if use == "duplicates":
        task, said = _pairs_of(labels, groups, unit_of, seed)
        return Setting(task, rows, *images, classes, said)
    findable = _findable(labels, groups, gallery)
    queries = queries[findable[queries]]
    if not len(queries):
        raise ImpossibleOption(
            "Expected photos with another of their class (of another group, with --groups) to find. Received: none."
        )
    notes: list[str] = []
    alone = int((~findable).sum()) if collection.kind == "classes" else 0
    if alone:
        notes.append(f"Photos that are not looked for, since there is no other of their class: {alone:,}.")
    most = max(1, MOST_COMPARISONS // len(gallery))
    if len(queries) > most:
        notes.append(
            f"{most:,} of {len(queries):,} photos are looked for, drawn at random, among all {len(gallery):,}."
        )
        queries = np.sort(numbers.permutation(queries)[:most])
    task = Neighbours(
        labels, queries, gallery, groups, unit_of, resamples(units, seed), request.measure, classes=use == "classify"
    )
    return Setting(task, rows, *images, classes, tuple(notes))


def _units(photos: Sequence[Photo]) -> tuple[int, Array]:
    names, unit_of = np.unique(
        [photo.name if photo.group is None else photo.group for photo in photos], return_inverse=True
    )
    return len(names), unit_of


def _findable(labels: Array, groups: Array, gallery: Array) -> Array:
    """Whether each image has another of its class, of another group, in the gallery."""
    of_class = Counter(labels[gallery].tolist())
    of_both = Counter(zip(labels[gallery].tolist(), groups[gallery].tolist(), strict=True))
    return np.array([
        of_class[label] > of_both[label, group] for label, group in zip(labels.tolist(), groups.tolist(), strict=True)
    ])  # fmt: skip


def _pairs_of(labels: Array, groups: Array, unit_of: Array, seed: int) -> tuple[Pairs, tuple[str, ...]]:
    """Make pairs of classes: those of one class are the same."""
    numbers = np.random.default_rng(seed)
    same: list[tuple[int, int]] = []
    for label in np.unique(labels):
        members = numbers.permutation(np.flatnonzero(labels == label))[:200]
        same += [(int(a), int(b)) for at, a in enumerate(members) for b in members[:at] if groups[a] != groups[b]]
    if not same:
        raise ImpossibleOption("Expected two photos of a class (of two groups, with --groups). Received: none.")
    kept = [same[index] for index in numbers.permutation(len(same))[:_MOST_PAIRS]]
    drawn = numbers.integers(0, len(labels), (4 * _DIFFERENT_PER_SAME * len(kept), 2))
    drawn = drawn[labels[drawn[:, 0]] != labels[drawn[:, 1]]]
    drawn = np.unique(np.sort(drawn, axis=1), axis=0)
    drawn = drawn[np.sort(numbers.permutation(len(drawn))[: _DIFFERENT_PER_SAME * len(kept)])]
    first = np.array([*(a for a, _ in kept), *drawn[:, 0]])
    second = np.array([*(b for _, b in kept), *drawn[:, 1]])
    is_same = np.arange(len(first)) < len(kept)
    note = f"{len(kept):,} of {len(same):,} pairs of a class, and {len(drawn):,} pairs of two, drawn at random."
    return Pairs(first, second, is_same, unit_of, resamples(int(unit_of.max()) + 1, seed)), (note,)
