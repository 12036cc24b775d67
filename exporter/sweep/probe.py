"""The linear probe: how well a logistic regression on a candidate's vectors classifies photos that it has not seen."""

from typing import Any

import numpy as np

from exporter.features.logistic import axes_of, best_strength, classified, folds, quiet_on_one_thread
from exporter.sweep.measures import Scores, linear_errors, normalised

NAME = "linear probe"
_OUTER, _INNER = 5, 3

Array = np.ndarray[Any, Any]


def probe(vectors: Array, labels: Array, unit_of: Array, drawn: Array, seed: int) -> Scores:
    """Cross-validate a logistic regression, whose regularisation is chosen within each fold's training photos.

    Args:
        vectors: float32 [photos, dimensions].
        labels: Class of each photo, int [photos].
        unit_of: Unit of each photo, which is never in training and test; int [photos].
        drawn: How often each unit is drawn in each resample, uint8 [units, resamples].
        seed: Of the folds.
    """
    unit = normalised(vectors)
    predicted = np.full(len(labels), -1)
    with quiet_on_one_thread():
        for train, test in folds(_OUTER, labels, unit_of, seed):
            known, unknown = _rotated(unit[train], unit[test])
            splits = folds(_INNER, labels[train], unit_of[train], seed)
            strength = best_strength(known, labels[train], splits)
            predicted[test] = classified(known, labels[train], strength, unknown)
    right = (predicted == labels).astype(np.float64)
    influence = np.bincount(unit_of, right - right.mean(), len(drawn)) / len(right)

    def on(chosen: Array) -> float:
        there = chosen[unit_of]
        return float(right[there].mean()) if there.any() else float("nan")

    return Scores(float(right.mean()), {}, linear_errors(influence, drawn), on, predicted)


def _rotated(train: Array, test: Array) -> tuple[Array, Array]:
    """Standardise vectors, and rotate those that are longer than the training photos are many into their span."""
    mean, deviation = train.mean(axis=0), np.maximum(train.std(axis=0), 1e-9)
    known, unknown = ((one - mean) / deviation for one in (train, test))
    axes = axes_of(known)
    return (known, unknown) if axes is None else (known @ axes.T, unknown @ axes.T)
