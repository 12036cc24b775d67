"""From photos with numbers to a head that says them: features, head, and what it reaches."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from exporter.errors import CutError, ImpossibleOption
from exporter.features.logistic import quiet_on_one_thread
from exporter.features.measured_photos import MeasuredPhotos, box_of, check_numbers, part
from exporter.features.photos import Photo, held_out
from exporter.head.dense import DenseHead
from exporter.recipe.pooling_names import PoolingName
from exporter.recipe.resolved import ModelRecipe, OutputRecipe
from exporter.runtime.terminal import stage, timed, warn
from exporter.train.material import HELD_OUT_FOLDS, Features, features_of, usable
from exporter.train.regression import (
    Box,
    Measuring,
    NumberKind,
    OfBox,
    OfColumn,
    Span,
    curve_rows,
    fit_network,
    fit_ridge,
    overlaps,
    strengths_for,
    unit_folds,
)

AVERAGE = "average"
_ROWS = 256
"""Vectors that are answered at once: float64 of many long ones would fill the memory."""
_SPATIAL = ("flatten", "spp")
_HINT = '"spp(1,2,4)" or flatten where places matter, else avg'

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class NumberRequest:
    """What a user asks for.

    Attributes:
        recipe: The model.
        output: Its output whose vectors are learnt from.
        entry: The model in its recipe file, as YAML data.
        name: Of the new model.
        out: The folder of the results.
        kind: How the head is fitted.
        hidden: Sizes of hidden layers.
        seed: Of all that is drawn.
    """

    recipe: ModelRecipe
    output: OutputRecipe
    entry: dict[str, Any]
    name: str
    out: Path
    kind: NumberKind = "ridge"
    hidden: tuple[int, ...] = ()
    seed: int = 0


@dataclass(frozen=True, slots=True)
class NumberMaterial:
    """Photos, their numbers and their features.

    Attributes:
        measured: The photos and numbers, without those that were left out.
        units: What each photo is of: its group, and copies of it; int [photos].
        held: Whether each photo is held out, bool [photos].
        given: Whether the list said which ones are held out.
        vectors: float32 [photos, dimensions].
        average: Of the same layer after average pooling; None where the output has no places.
    """

    measured: MeasuredPhotos
    units: Array
    held: Array
    given: bool
    vectors: Array
    average: Array | None

    @property
    def photos(self) -> tuple[Photo, ...]:
        """The photos."""
        return self.measured.collection.photos


@dataclass(frozen=True, slots=True)
class TrainedNumbers:
    """What a training found.

    Attributes:
        request: What was asked for.
        material: What it learnt from.
        strengths: Of each column's regression; none for a network.
        head: The trained layers.
        said: Its answers for held-out photos, float64 [photos, columns]; NaN for the others.
        columns: What is reached for each number, on held-out photos.
        box: What is reached for boxes; None without.
        curve: Numbers of training photos, and what a head reaches with so many: the mean intersection over union, or
            without a box the error by that of always saying the mean.
        timing: Seconds of each stage, by the clock and by the processor.
    """

    request: NumberRequest
    material: NumberMaterial
    strengths: tuple[float, ...]
    head: DenseHead
    said: Array
    columns: tuple[OfColumn, ...]
    box: OfBox | None
    curve: list[tuple[int, float]]
    timing: dict[str, Any] = field(repr=False)

    @property
    def places(self) -> Box | None:
        """Places of x, y, width and height among the columns."""
        return self.material.measured.box

    @property
    def worst(self) -> Array:
        """Indices of the held-out photos, the largest error first: of boxes, or by each column's deviation."""
        material = self.material
        held, values = np.flatnonzero(material.held), material.measured.values
        if self.places is not None:
            at = list(self.places)
            return np.asarray(held[np.argsort(overlaps(self.said[held][:, at], values[held][:, at]), kind="stable")])
        wrong = np.abs(self.said - values) / values[~material.held].std(axis=0)
        return np.asarray(held[np.argsort(-wrong[held].max(axis=1), kind="stable")])


def train_numbers(request: NumberRequest, measured: MeasuredPhotos) -> TrainedNumbers:
    """Train a head that says numbers, on frozen features.

    Raises:
        ExporterError: The backbone cannot be built or cut, or too few photos are left.
    """
    timing: dict[str, Any] = {}
    with timed(timing, "features"):
        material = _gathered(request, measured)
    for note in material.measured.collection.warnings:
        warn(note)
    with timed(timing, "head"), stage("Fitting the head"), quiet_on_one_thread():
        return _fitted(request, material, timing)


def _gathered(request: NumberRequest, measured: MeasuredPhotos) -> NumberMaterial:
    """Compute the features of all photos, and divide the photos."""
    recipe, output = request.recipe, request.output
    wanted = replace(output, quantization="none")
    average = replace(wanted, name=f"{output.name}-{AVERAGE}", pooling="avg", projection=None)
    photos = measured.collection.photos

    def features(outputs: tuple[OutputRecipe, ...]) -> Features:
        return features_of(recipe, outputs, photos, request.out, hint=_HINT)

    if PoolingName.parse(output.pooling).kind in _SPATIAL:
        try:
            found = features((wanted, average))
        except CutError:  # a vector that is flattened has no places to average over
            found = features((wanted,))
    else:
        found = features((wanted,))
    held = held_out(photos)
    given = bool(held.any())
    out, keep, units = usable(photos, found, held)
    for name, why in out.items():
        warn(f"left out: {name}: {why}")
    rest = part(measured, keep.tolist(), tuple(out.items()))
    check_numbers(rest, "the photos that are left")
    rest = _with_warnings(rest, recipe)
    held = held[keep] if given else _held_out(units, request.seed)
    vectors = {name: rows[keep] for name, rows in found.vectors.items()}
    return NumberMaterial(rest, units, held, given, vectors[output.name], vectors.get(average.name))


def _with_warnings(measured: MeasuredPhotos, recipe: ModelRecipe) -> MeasuredPhotos:
    if box_of(measured.columns) is None or recipe.pixels.resize == "squash":
        return measured
    said = (
        f"The network sees a part of each photo, or bars beside it ({recipe.pixels.resize}), while boxes are fractions "
        "of the whole photo. With input: {resize: squash, crop: none} in the recipe it sees all of it."
    )
    collection = measured.collection
    return replace(measured, collection=replace(collection, warnings=(*collection.warnings, said)))


def _held_out(units: Array, seed: int) -> Array:
    """Hold out a fifth of the photos, whole units."""
    splits = unit_folds(units, HELD_OUT_FOLDS, seed)
    if not splits:
        raise ImpossibleOption("Expected photos of two groups or more, to hold some out. Received: one group.")
    held = np.zeros(len(units), bool)
    held[splits[0][1]] = True
    return held


def _fitted(request: NumberRequest, material: NumberMaterial, timing: dict[str, Any]) -> TrainedNumbers:
    rows, held = np.flatnonzero(~material.held), np.flatnonzero(material.held)
    values, units, places = material.measured.values, material.units, material.measured.box
    _check_differ(material.measured.columns, values[rows])

    def fitted(vectors: Array, some: Array, strengths: Sequence[float] = ()) -> tuple[DenseHead, tuple[float, ...]]:
        span = Span.of(vectors[some])
        if request.kind == "mlp":
            return fit_network(span, values[some], request.hidden, request.seed), ()
        found = tuple(strengths) or strengths_for(span, values[some], units[some], request.seed)
        return fit_ridge(span, values[some], found), found

    head, strengths = fitted(material.vectors, rows)
    said = np.full(values.shape, np.nan)
    for start in range(0, len(held), _ROWS):
        some = held[start : start + _ROWS]
        said[some] = head.logits(material.vectors[some])
    beside = None
    if material.average is not None:
        beside = fitted(material.average, rows)[0].logits(material.average[held])
    mean = values[rows].mean(axis=0)
    measuring = Measuring(values[held], units[held], mean, request.seed)
    columns = tuple(
        measuring.column(said[held], beside, place, name, unit)
        for place, (name, unit) in enumerate(zip(material.measured.columns, material.measured.units, strict=True))
    )
    box = None if places is None else measuring.box(said[held], beside, places)
    curve = []
    for chosen in curve_rows(units[rows], request.seed):
        some = rows[chosen]
        one = head if len(some) == len(rows) else fitted(material.vectors, some, strengths)[0]
        curve.append((len(some), _reached(one.logits(material.vectors[held]), values[held], mean, places)))
    return TrainedNumbers(request, material, strengths, head, said, columns, box, curve, timing)


def _check_differ(names: Sequence[str], values: Array) -> None:
    same = [name for name, column in zip(names, values.T, strict=True) if (column == column[0]).all()]
    if same:
        raise ImpossibleOption(
            f"Expected different numbers in each column of the photos to train on. Received: one value as {same[0]}."
        )


def _reached(said: Array, values: Array, mean: Array, places: Box | None) -> float:
    if places is not None:
        return float(overlaps(said[:, places], values[:, places]).mean())
    plain = np.abs(mean - values).mean(axis=0)
    return float((np.abs(said - values).mean(axis=0) / np.maximum(plain, np.finfo(np.float64).tiny)).mean())
