"""From photos to a classifier: features, head, calibration, and what it reaches."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from exporter.features.logistic import quiet_on_one_thread
from exporter.features.photos import Collection
from exporter.features.resampling import CONFIDENCE, resamples
from exporter.head.dense import SMALLEST_NORM, DenseHead
from exporter.head.slicing import Slice
from exporter.recipe.resolved import ModelRecipe, OutputRecipe
from exporter.runtime.terminal import say, stage, timed, warn
from exporter.train.calibration import gated, softmax, temperature_for, threshold_for
from exporter.train.figures import Figures, Share, figures, learning_curve, refused_unknown
from exporter.train.fine_tuning import Photos, Progress, Trainer, Tuning
from exporter.train.heads import Examples, Kind, Method, fit, out_of_fold, strength_for, usual_kind
from exporter.train.material import Material, gather, hold_out
from exporter.train.tunable import Counts, first_unfrozen, set_head, tunable

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Request:
    """What a user asks for.

    Attributes:
        recipe: The model.
        output: Its output whose vectors are learnt from.
        entry: The model in its recipe file, as YAML data.
        name: Of the new model.
        out: The folder of the results.
        kind: How the head is fitted; None for what suits the number of photos.
        hidden: Sizes of hidden layers.
        copies: Altered copies of each training photo.
        balanced: Whether every class weighs the same.
        refuse: Share of photos of known classes that may be refused; 0 where no photo is refused.
        seed: Of all that is drawn.
        tuning: How the backbone is fine-tuned; None where only a head is trained.
    """

    recipe: ModelRecipe
    output: OutputRecipe
    entry: dict[str, Any]
    name: str
    out: Path
    kind: Kind | None = None
    hidden: tuple[int, ...] = ()
    copies: int = 0
    balanced: bool = False
    refuse: float = 0.05
    seed: int = 0
    tuning: Tuning | None = None


@dataclass(frozen=True, slots=True)
class Gain:
    """What altered copies add to the accuracy on held-out photos, with its paired interval."""

    without: Share
    change: float
    interval: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Tuned:
    """A fine-tuned model.

    Attributes:
        model: From scaled pixels to logits.
        layer: Name of the layer whose vectors were learnt from.
        first: Name of the first layer that was trained.
        before: Weights while the backbone is frozen.
        after: Weights with its last layers unfrozen.
        progress: Its epochs.
        alone: Accuracy of the head on the frozen backbone, on the same held-out photos.
        change: Of the accuracy by fine-tuning.
        interval: Paired, of the change.
    """

    model: keras.Model
    layer: str
    first: str
    before: Counts
    after: Counts
    progress: Progress
    alone: Share
    change: float
    interval: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Trained:
    """A classifier and what it reaches.

    Attributes:
        request: What was asked for.
        material: What it was trained on.
        method: How its head was fitted.
        strength: Of regularisation; None for other heads than logistic regression.
        head: The head.
        temperature: Divides its logits.
        threshold: A best score below it is refused; None where no photo is.
        logits: Of all photos, float64 [photos, classes]: of training photos by heads that did not know them.
        figures: What it reaches.
        curve: Accuracy by number of training photos.
        unknown: Share of photos of a class that was left out of training that are refused.
        gain: Of altered copies; None without them.
        timing: Seconds of each stage, by the clock and by the processor.
        tuned: The fine-tuned model, whose logits and figures these are then; None where only a head was trained.
    """

    request: Request
    material: Material
    method: Method
    strength: float | None
    head: DenseHead
    temperature: float
    threshold: float | None
    logits: Array
    figures: Figures
    curve: list[tuple[int, Share]]
    unknown: Share | None
    gain: Gain | None
    timing: dict[str, Any] = field(repr=False)
    tuned: Tuned | None = None


def train(request: Request, collection: Collection) -> Trained:
    """Train a head on frozen features.

    Raises:
        ExporterError: The backbone cannot be built or cut, or too few photos are left.
    """
    timing: dict[str, Any] = {}
    with timed(timing, "features"):
        material = gather(
            request.recipe, request.output, collection, request.out, request.copies, request.seed, _check_of(request)
        )
    for note in material.collection.warnings:
        warn(note)
    with timed(timing, "head"), stage("Fitting the head"), quiet_on_one_thread():
        found = fit_head(request, material, timing)
    if request.tuning is None:
        return found
    with timed(timing, "fine-tuning"):
        return _fine_tuned(found, request.tuning)


def examples_of(material: Material, rows: Array, *, copies: bool) -> Examples:
    """Return photos to learn from or to test on, with their altered copies."""
    unit = unit_length(material.vectors[rows])
    whole = np.ones(len(rows), bool)
    found = Examples(unit, material.labels[rows], material.units[rows], np.ones(len(rows)), whole,
                     len(material.classes))  # fmt: skip
    if not copies or not len(material.altered):
        return found
    times = len(material.altered) + 1
    return Examples(
        np.concatenate([unit, *(unit_length(one[rows]) for one in material.altered)]),
        np.tile(found.labels, times),
        np.tile(found.units, times),
        np.full(times * len(rows), 1 / times),
        np.arange(times * len(rows)) < len(rows),
        found.classes,
    )


def unit_length(vectors: Array) -> Array:
    """Return float32 vectors of length one, as `normalize: l2` does."""
    wide = vectors.astype(np.float64)
    unit = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), SMALLEST_NORM)
    return np.asarray(unit, np.float32)


def fit_head(request: Request, material: Material, timing: dict[str, Any]) -> Trained:
    """Fit a head on features, calibrate it, and measure it on the held-out photos."""
    rows, held = np.flatnonzero(~material.held), np.flatnonzero(material.held)
    known, test = examples_of(material, rows, copies=True), examples_of(material, held, copies=False)
    kind = request.kind or ("mlp" if request.hidden else usual_kind(material.labels[rows]))
    method = Method(kind, request.hidden, request.balanced, request.seed)
    strength = strength_for(known, request.seed) if kind == "logistic" else None
    head = fit(known, method, strength or 1.0)
    aside = out_of_fold(known, method, strength or 1.0)[: len(rows)]
    sound = np.isfinite(aside).all(axis=1)
    whole = known.part(np.flatnonzero(known.whole))
    temperature = temperature_for(aside[sound], whole.labels[sound])
    threshold = None
    if request.refuse:
        head, remains = gated(head, whole.vectors, whole.units, request.refuse / 2, request.seed)
        aside *= remains[:, None]
        threshold = threshold_for(softmax(aside[sound], temperature), request.refuse)
    logits = np.full((len(material.labels), len(material.classes)), np.nan)
    logits[rows] = aside
    logits[held] = head.logits(test.vectors)
    found = figures(
        logits, material.labels, material.units, material.held, material.classes, temperature, threshold, request.seed
    )
    unknown = None
    if threshold is not None:
        unknown = refused_unknown(known, test, method, strength or 1.0, head, (temperature, threshold))
    curve = learning_curve(known, method, strength or 1.0, test)
    gain = _gain(material, method, rows, test, head) if len(material.altered) else None
    return Trained(
        request, material, method, strength, head, temperature, threshold, logits, found, curve, unknown, gain, timing
    )


def _check_of(request: Request) -> Callable[[Slice], object]:
    """Return a check of whether the backbone can be fine-tuned as asked."""

    def check(slice_: Slice) -> None:
        if request.tuning is not None:
            found = tunable(slice_, (), 2)
            first_unfrozen(found.backbone, request.tuning.unfreeze)

    return check


def _fine_tuned(alone: Trained, tuning: Tuning) -> Trained:
    """Fine-tune the backbone below a head that was fitted on it."""
    request, material = alone.request, alone.material
    rows, held = np.flatnonzero(~material.held), np.flatnonzero(material.held)
    aside = hold_out(material.labels[rows], material.units[rows], request.seed)
    learn, stop = rows[~aside], rows[aside]
    hidden = request.hidden if alone.method.kind == "mlp" else ()
    found = tunable(material.slice_, hidden, len(material.classes), unit=not tuning.scratch)
    first = 0 if tuning.scratch else first_unfrozen(found.backbone, tuning.unfreeze)
    if not tuning.scratch:
        with quiet_on_one_thread():
            head = fit(examples_of(material, learn, copies=False), alone.method, alone.strength or 1.0)
        *layers, (kernel, bias) = head.layers
        scaled = (kernel / np.float32(alone.temperature), bias / np.float32(alone.temperature))
        set_head(found.model, DenseHead((*layers, scaled)))
    found.freeze(len(found.backbone))
    before = found.counts()
    found.freeze(first)
    after = found.counts()
    for line in _counts_table(before, after, str(found.backbone[first].name)):
        say(line)
    row = material.slice_.built.row
    trainer = Trainer(found, request.recipe.pixels, row.scaling, tuning, request.out, request.seed)
    weights = np.ones(len(rows))
    if request.balanced:
        sizes = np.bincount(material.labels[rows], minlength=len(material.classes))
        weights = 1 / np.maximum(sizes, 1)[material.labels[rows]]
    paths = [photo.path for photo in material.photos]

    def photos(chosen: Array, share: Array) -> Photos:
        return Photos([paths[index] for index in chosen], material.labels[chosen], share)

    identity = {
        "photos": [[material.photos[index].digest, int(material.labels[index])] for index in (*learn, *stop)],
        "recipe": request.recipe.canonical(),
        "output": request.output.name,
        "first": first,
        "hidden": hidden,
        "balanced": request.balanced,
    }
    progress = trainer.train(photos(learn, weights[~aside]), photos(stop, weights[aside]), identity)
    logits = np.full((len(material.labels), len(material.classes)), np.nan)
    known = np.concatenate([stop, held])
    logits[known] = trainer.logits([paths[index] for index in known])
    temperature = temperature_for(logits[stop], material.labels[stop])
    threshold = threshold_for(softmax(logits[stop], temperature), request.refuse) if request.refuse else None
    measured = figures(
        logits, material.labels, material.units, material.held, material.classes, temperature, threshold, request.seed
    )
    right = [one[held].argmax(axis=1) == material.labels[held] for one in (logits, alone.logits)]
    change, interval = paired(right[0], right[1], material.units[held], request.seed)
    tuned = Tuned(
        found.model, found.layer, str(found.backbone[first].name), before, after, progress,
        alone.figures.accuracy, change, interval,
    )  # fmt: skip
    return replace(
        alone, temperature=temperature, threshold=threshold, logits=logits, figures=measured, unknown=None, tuned=tuned
    )


def _counts_table(before: Counts, after: Counts, first: str) -> list[str]:
    rows = (("head alone", before), (f"from {first}", after))
    wide = max(len(name) for name, _ in rows)
    lines = [f"{'weights':{wide}} {'trainable':>14} {'frozen':>14}"]
    lines += [f"{name:{wide}} {one.trainable:>14,} {one.frozen:>14,}" for name, one in rows]
    return lines


def _gain(material: Material, method: Method, rows: Array, test: Examples, head: DenseHead) -> Gain:
    """Compare a head with one that saw no altered copies, on the held-out photos."""
    plain = examples_of(material, rows, copies=False)
    strength = strength_for(plain, method.seed) if method.kind == "logistic" else 1.0
    before = fit(plain, method, strength).logits(test.vectors).argmax(axis=1) == test.labels
    after = replace(head, known=None).logits(test.vectors).argmax(axis=1) == test.labels
    change, interval = paired(after, before, test.units, method.seed)
    return Gain(Share.of(before, test.units), change, interval)


def paired(after: Array, before: Array, units: Array, seed: int) -> tuple[float, tuple[float, float]]:
    """Return the difference of two accuracies on the same photos, and its 95 % bootstrap interval over units."""
    _, place = np.unique(units, return_inverse=True)
    drawn = resamples(int(place.max()) + 1, seed)[place].astype(np.float64)
    change = after.astype(np.float64) - before
    found = (change @ drawn) / np.maximum(drawn.sum(axis=0), 1)
    low, high = np.quantile(found, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(change.mean()), (float(low), float(high))
