"""What a classifier reaches on photos that it was not trained on, with intervals; and what to look at."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from exporter.features.resampling import CONFIDENCE, resamples, share_interval
from exporter.head.dense import DenseHead
from exporter.train.calibration import Reliability, reliability, softmax
from exporter.train.heads import Examples, Method, fit

_SHARES = (0.125, 0.25, 0.5, 1.0)
_MOST_UNKNOWN = 20
"""Classes up to which each is left out once, to see whether its photos are refused then."""
_MOST_DOUBTS = 24
_MOST_CONFUSED = 6

Array = np.ndarray[Any, Any]
Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Share:
    """A share of photos, with its 95 % interval by independent units.

    Attributes:
        value: The share.
        interval: Of it.
        photos: Of how many.
    """

    value: float
    interval: Interval
    photos: int

    @classmethod
    def of(cls, right: Array, units: Array) -> "Share":
        """Return the share of photos for which something holds, from bool [N] and the photos' units."""
        value = float(right.mean()) if len(right) else 0.0
        return cls(value, share_interval(value, len(np.unique(units))), len(right))


@dataclass(frozen=True, slots=True)
class OfClass:
    """What is reached for a class: number of training and held-out photos, precision, recall and F1."""

    name: str
    trained: int
    held_out: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, slots=True)
class Doubt:
    """A photo whose label looks wrong.

    Attributes:
        photo: Its index.
        label: Its class.
        score: Of its class.
        other: The class that its head prefers.
        other_score: Of that.
    """

    photo: int
    label: int
    score: float
    other: int
    other_score: float


@dataclass(frozen=True, slots=True)
class Figures:
    """What a classifier reaches.

    Attributes:
        accuracy: On held-out photos.
        macro_f1: Mean F1 of the classes, and its interval.
        classes: By label.
        confusion: Of held-out photos: a row for each class, a column for each predicted one.
        confused: Pairs of true and predicted class with most held-out photos.
        before: Reliability on held-out photos with a temperature of 1.
        after: With the fitted one.
        refused: Share of held-out photos that are refused; all of them are of known classes.
        answered: Accuracy on those that are not refused.
        doubts: Photos whose label looks wrong, worst first.
    """

    accuracy: Share
    macro_f1: tuple[float, Interval]
    classes: tuple[OfClass, ...]
    confusion: Array
    confused: tuple[tuple[int, int, int], ...]
    before: Reliability
    after: Reliability
    refused: Share
    answered: Share
    doubts: tuple[Doubt, ...]


def figures(  # noqa: PLR0913, PLR0917 -- what was measured
    logits: Array,
    labels: Array,
    units: Array,
    held: Array,
    classes: Sequence[str],
    temperature: float,
    threshold: float | None,
    seed: int,
) -> Figures:
    """Measure a classifier.

    Args:
        logits: Of all photos, float64 [photos, classes]; of training photos those of heads that did not know them, or
            NaN.
        labels: int [photos].
        units: int [photos].
        held: Whether each photo is held out, bool [photos].
        classes: Names.
        temperature: Divides logits.
        threshold: Of the best score; None where no photo is refused.
        seed: Of the resamples.
    """
    out, wanted, of = logits[held], labels[held], units[held]
    predicted, scores = out.argmax(axis=1), softmax(out, temperature)
    count = len(classes)
    confusion = np.zeros((count, count), np.int64)
    np.add.at(confusion, (wanted, predicted), 1)
    refused = scores.max(axis=1) < (threshold or 0.0)
    right = predicted == wanted
    wrong = confusion - np.diag(np.diag(confusion))
    worst = [(int(at // count), int(at % count)) for at in np.argsort(-wrong, axis=None, kind="stable")]
    return Figures(
        Share.of(right, of),
        _macro_f1(wanted, predicted, of, count, seed),
        tuple(_of_classes(confusion, np.bincount(labels[~held], minlength=count), classes)),
        confusion,
        tuple((a, b, int(wrong[a, b])) for a, b in worst[:_MOST_CONFUSED] if wrong[a, b]),
        reliability(softmax(out), wanted),
        reliability(scores, wanted),
        Share.of(refused, of),
        Share.of(right[~refused], of[~refused]),
        tuple(doubts(logits, labels, temperature)),
    )


def f1_of(confusion: Array) -> Array:
    """Return the F1 of each class, [..., classes], from [..., classes, classes]; NaN where no photo is of it."""
    true = np.diagonal(confusion, axis1=-2, axis2=-1)
    there, said = confusion.sum(axis=-1), confusion.sum(axis=-2)
    return np.where(there > 0, 2 * true / np.maximum(there + said, 1), np.nan)


def _macro_f1(labels: Array, predicted: Array, units: Array, classes: int, seed: int) -> tuple[float, Interval]:
    _, place = np.unique(units, return_inverse=True)
    drawn = resamples(int(place.max()) + 1, seed)[place].astype(np.float64)
    cell = labels * classes + predicted

    def macro(weights: Array) -> float:
        counts = np.bincount(cell, weights, classes * classes).reshape(classes, classes)
        return float(np.nanmean(f1_of(counts)))

    found = [macro(weights) for weights in drawn.T]
    low, high = np.quantile(found, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return macro(np.ones(len(labels))), (float(low), float(high))


def _of_classes(confusion: Array, trained: Array, classes: Sequence[str]) -> list[OfClass]:
    true, there, said = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    f1 = np.nan_to_num(f1_of(confusion))
    return [
        OfClass(name, int(trained[index]), int(there[index]), float(true[index] / max(said[index], 1)),
                float(true[index] / max(there[index], 1)), float(f1[index]))
        for index, name in enumerate(classes)
    ]  # fmt: skip


def doubts(logits: Array, labels: Array, temperature: float) -> list[Doubt]:
    """Return photos whose label looks wrong, by heads that did not know them.

    As in Northcutt et al., "Confident Learning", 2021: another class has a higher score, and at least the mean score
    that photos with that label have for it.
    """
    there = np.flatnonzero(np.isfinite(logits).all(axis=1))
    scores, given = softmax(logits[there], temperature), labels[there]
    count = logits.shape[1]
    usual = np.array([scores[given == label, label].mean() if (given == label).any() else 1.0
                      for label in range(count)])  # fmt: skip
    best = scores.argmax(axis=1)
    rows = np.arange(len(there))
    suspect = (best != given) & (scores[rows, best] >= usual[best])
    order = np.argsort(scores[rows, given] - scores[rows, best], kind="stable")
    return [
        Doubt(int(there[row]), int(given[row]), float(scores[row, given[row]]), int(best[row]),
              float(scores[row, best[row]]))
        for row in order if suspect[row]
    ][:_MOST_DOUBTS]  # fmt: skip


def learning_curve(examples: Examples, method: Method, strength: float, test: Examples) -> list[tuple[int, Share]]:
    """Return the accuracy on held-out photos of heads that were fitted on a part of the training photos.

    Args:
        examples: Training photos.
        method: How a head is fitted.
        strength: Of regularisation, for all parts.
        test: Held-out photos.
    """
    order = np.random.default_rng(method.seed).permutation(np.unique(examples.units))
    found = []
    for share in _SHARES:
        part = examples.part(np.isin(examples.units, order[: max(2, round(share * len(order)))]))
        if len(np.unique(part.labels)) < 2:
            continue
        right = fit(part, method, strength).logits(test.vectors).argmax(axis=1) == test.labels
        found.append((int(part.whole.sum()), Share.of(right, test.units)))
    return found


def refused_unknown(  # noqa: PLR0913, PLR0917 -- what makes a head, and its limits
    examples: Examples, test: Examples, method: Method, strength: float, head: DenseHead, limits: tuple[float, float]
) -> Share | None:
    """Return the share of photos of an unknown class that are refused; None with two classes, or with very many.

    Each class is left out of training once, and its held-out photos are classified; temperature, threshold and
    distances are those of the whole head.

    Args:
        examples: Training photos.
        test: Held-out photos.
        method: How a head is fitted.
        strength: Of regularisation.
        head: The whole head.
        limits: Its temperature and threshold.
    """
    if not 3 <= examples.classes <= _MOST_UNKNOWN:
        return None
    temperature, threshold = limits
    refused = np.zeros(len(test.labels), bool)
    for label in range(examples.classes):
        rows = np.flatnonzero(test.labels == label)
        rest = examples.part(examples.labels != label)
        if not len(rows) or len(np.unique(rest.labels)) < 2:
            continue
        partial = fit(rest, method, strength)
        whole = rest.vectors[rest.whole]
        if head.known is not None:
            partial = DenseHead(partial.layers, whole, head.near, head.far)
        others = np.delete(np.arange(examples.classes), label)
        scores = softmax(partial.logits(test.vectors[rows])[:, others], temperature)
        refused[rows] = scores.max(axis=1) < threshold
    return Share.of(refused, test.units)
