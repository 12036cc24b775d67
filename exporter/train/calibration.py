"""Make scores mean what they say, and refuse photos of no known class.

One temperature divides all logits: Guo et al., "On Calibration of Modern Neural Networks", 2017. It is fitted on logits
that no photo's own head computed. A photo is refused if its best calibrated score is below a threshold, which distance
to the training photos also lowers: see `exporter.head.dense`.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from exporter.head.dense import DenseHead, remaining_at

BINS = 15
_SIMULATED = 200
_HIGHEST = 0.99
"""Threshold: where all photos of known classes score higher, there is room below them."""
_COLDEST, _HOTTEST = 0.02, 50.0
_STEPS = 60
_GOLDEN = (5**0.5 - 1) / 2
MOST_KNOWN = 2048
"""Directions of training photos that a head keeps."""
_BEYOND = 1.25
"""How much farther than the farthest of the training photos a photo of no known class is."""
_LEAST_STEP = 0.01

Array = np.ndarray[Any, Any]


def softmax(logits: Array, temperature: float = 1.0) -> Array:
    """Return scores, float64 [N, classes]."""
    found = logits / temperature
    found = np.exp(found - found.max(axis=1, keepdims=True))
    return np.asarray(found / found.sum(axis=1, keepdims=True))


def log_loss(logits: Array, labels: Array, temperature: float) -> float:
    """Return the mean negative log-likelihood of the right classes."""
    found = logits / temperature
    top = found.max(axis=1, keepdims=True)
    whole = top[:, 0] + np.log(np.exp(found - top).sum(axis=1))
    return float((whole - found[np.arange(len(labels)), labels]).mean())


def temperature_for(logits: Array, labels: Array) -> float:
    """Return the temperature with the smallest log loss, by golden-section search.

    As in Platt, 1999, a share of the labels counts as unknown: without it, logits that are always right would get a
    temperature of 0.
    """
    unknown = 1 / (len(labels) + 2)

    def loss(temperature: float) -> float:
        found = logits / temperature
        top = found.max(axis=1)
        whole = top + np.log(np.exp(found - top[:, None]).sum(axis=1))
        right = found[np.arange(len(labels)), labels]
        return float((whole - (1 - unknown) * right - unknown * found.mean(axis=1)).mean())

    low, high = np.log(_COLDEST), np.log(_HOTTEST)
    for _ in range(_STEPS):
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        if loss(float(np.exp(left))) <= loss(float(np.exp(right))):
            high = right
        else:
            low = left
    return float(f"{np.exp((low + high) / 2):.5g}")


@dataclass(frozen=True, slots=True)
class Reliability:
    """How often scores are right.

    Attributes:
        ece: Expected calibration error, over bins of equally many photos.
        floor: Mean error of perfectly calibrated scores with so many photos.
        bins: Mean score, share that is right, and number of photos of each bin.
    """

    ece: float
    floor: float
    bins: tuple[tuple[float, float, int], ...]


def reliability(scores: Array, labels: Array) -> Reliability:
    """Compare the best scores, [N, classes], with how often they are right."""
    best, right = scores.max(axis=1), scores.argmax(axis=1) == labels
    order = np.argsort(best, kind="stable")
    parts = [part for part in np.array_split(order, min(BINS, len(order))) if len(part)]
    bins = tuple((float(best[part].mean()), float(right[part].mean()), len(part)) for part in parts)
    lucky = np.random.default_rng(0).random((_SIMULATED, len(best))) < best
    gaps = [np.abs(lucky[:, part].mean(axis=1) - best[part].mean()) * len(part) for part in parts]
    error = sum(abs(said - was) * count for said, was, count in bins) / max(len(labels), 1)
    return Reliability(error, float(np.mean(sum(gaps))) / max(len(labels), 1), bins)


def gated(head: DenseHead, vectors: Array, units: Array, rate: float, seed: int) -> tuple[DenseHead, Array]:
    """Give a head the directions of its training photos, and the distances at which it takes a photo for unknown.

    Args:
        head: Without them.
        vectors: The training photos', float32 [N, D] of length one.
        units: What is compared with nothing of its own unit, int [N].
        rate: Share of photos of known classes that distance may touch.
        seed: Of the choice, where there are more photos than a head keeps.

    Returns:
        The head, and the share of its logits that remains for each training photo by those of other units, [N]. Where
        no photo is of another unit the head is unchanged.
    """
    count = len(vectors)
    rows = np.arange(count)
    if count > MOST_KNOWN:
        rows = np.sort(np.random.default_rng(seed).permutation(count)[:MOST_KNOWN])
    known = vectors[rows].astype(np.float32)
    likeness = vectors.astype(np.float64) @ known.T.astype(np.float64)
    likeness[units[:, None] == units[rows][None, :]] = -np.inf
    distance = 1 - likeness.max(axis=1)
    there = np.isfinite(distance)
    if not there.all():
        return head, np.ones(count)
    near = float(np.quantile(distance, 1 - rate))
    far = max(near * _BEYOND, near + _LEAST_STEP)
    near, far = float(np.float32(near)), float(np.float32(far))
    return replace(head, known=known, near=near, far=far), remaining_at(distance, near, far)


def threshold_for(scores: Array, rate: float) -> float:
    """Return the score below which a share of `rate` of photos of known classes lies, from [N, classes]."""
    classes = scores.shape[1]
    found = float(np.quantile(scores.max(axis=1), rate, method="lower"))
    return max(math.floor(1e4 * min(found, _HIGHEST)) / 1e4, float(f"{1.001 / classes:.4g}"))
