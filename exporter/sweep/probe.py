"""The linear probe: how well a logistic regression on a candidate's vectors classifies photos that it has not seen."""

import warnings
from typing import Any

import numpy as np

from exporter.errors import ImpossibleOption
from exporter.sweep.measures import Scores, linear_errors, normalised

NAME = "linear probe"
_STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
_USUAL = 1.0
"""With too few photos to choose a strength."""
_OUTER, _INNER = 5, 3

Array = np.ndarray[Any, Any]


def want_scikit_learn() -> None:
    """Check that scikit-learn is installed.

    Raises:
        ImpossibleOption: It is not.
    """
    try:
        import sklearn  # noqa: F401, PLC0415 -- an extra; only this use needs it
    except ImportError:
        raise ImpossibleOption(
            "Expected scikit-learn for the linear probe of --for classify. Received: it is not installed. "
            "Run pip install scikit-learn, or choose --for search."
        ) from None


def probe(vectors: Array, labels: Array, unit_of: Array, drawn: Array, seed: int) -> Scores:
    """Cross-validate a logistic regression, whose regularisation is chosen within each fold's training photos.

    Args:
        vectors: float32 [photos, dimensions].
        labels: Class of each photo, int [photos].
        unit_of: Unit of each photo, which is never in training and test; int [photos].
        drawn: How often each unit is drawn in each resample, uint8 [units, resamples].
        seed: Of the folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold  # noqa: PLC0415 -- an extra
    from threadpoolctl import threadpool_limits  # noqa: PLC0415 -- a part of scikit-learn

    unit = normalised(vectors)

    def folds(most: int, chosen: Array) -> list[tuple[Array, Array]]:
        """Return as many folds as the photos allow, without those that are empty."""
        count = min(most, len(np.unique(unit_of[chosen])), int(np.bincount(labels[chosen]).max()))
        if count < 2:
            return []
        found = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
        return [(a, b) for a, b in found.split(chosen, labels[chosen], unit_of[chosen]) if len(a) and len(b)]

    predicted = np.full(len(labels), -1)
    # One thread: the matrices are small, and threads would wait for each other.
    with warnings.catch_warnings(), threadpool_limits(1):
        # Classes that are smaller than the number of folds, and regressions of little regularisation.
        warnings.simplefilter("ignore")
        for train, test in folds(_OUTER, np.arange(len(labels))):
            known, unknown = _rotated(unit[train], unit[test])
            own = labels[train]
            splits = folds(_INNER, train)
            reached = [
                np.mean([(_predicted(known[a], own[a], strength, known[b]) == own[b]).mean() for a, b in splits])
                for strength in (_STRENGTHS if splits else ())
            ]
            strength = _STRENGTHS[int(np.argmax(reached))] if reached else _USUAL
            predicted[test] = _predicted(known, own, strength, unknown)
    right = (predicted == labels).astype(np.float64)
    influence = np.bincount(unit_of, right - right.mean(), len(drawn)) / len(right)

    def on(chosen: Array) -> float:
        there = chosen[unit_of]
        return float(right[there].mean()) if there.any() else float("nan")

    return Scores(float(right.mean()), {}, linear_errors(influence, drawn), on, predicted)


def _predicted(vectors: Array, labels: Array, strength: float, others: Array) -> Array:
    """Fit a regression, and return the classes that it predicts for other vectors."""
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 -- an extra

    if (labels == labels[0]).all():  # a rare class is in the other part as a whole
        return np.full(len(others), labels[0])
    fitted = LogisticRegression(C=strength, max_iter=100, tol=1e-3).fit(vectors, labels)
    return np.asarray(fitted.predict(others))


def _rotated(train: Array, test: Array) -> tuple[Array, Array]:
    """Standardise vectors, and rotate those that are longer than the training photos are many into their span.

    A regression with an L2 penalty is the same in both, and several times faster in fewer dimensions.
    """
    mean, deviation = train.mean(axis=0), np.maximum(train.std(axis=0), 1e-9)
    known, unknown = ((one - mean) / deviation for one in (train, test))
    if known.shape[1] <= len(known):
        return known, unknown
    _, _, axes = np.linalg.svd(known, full_matrices=False)
    return known @ axes.T, unknown @ axes.T
