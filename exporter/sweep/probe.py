"""The linear probe: how well a logistic regression on a candidate's vectors classifies photos that it has not seen."""

import warnings
from typing import Any

import numpy as np

from exporter.errors import ImpossibleOption
from exporter.sweep.measures import Scores, linear_errors, normalised

NAME = "linear probe"
_STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
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
    folds = StratifiedGroupKFold(_OUTER, shuffle=True, random_state=seed)
    inner = StratifiedGroupKFold(_INNER, shuffle=True, random_state=seed)
    predicted = np.full(len(labels), -1)
    # One thread: the matrices are small, and threads would wait for each other.
    with warnings.catch_warnings(), threadpool_limits(1):
        # Classes that are smaller than the number of folds, and regressions of little regularisation.
        warnings.simplefilter("ignore")
        for train, test in folds.split(unit, labels, unit_of):
            known, unknown = _rotated(unit[train], unit[test])
            splits = list(inner.split(known, labels[train], unit_of[train]))
            reached = [
                np.mean([(_fit(known[a], labels[train][a], strength).predict(known[b]) == labels[train][b]).mean()
                         for a, b in splits])
                for strength in _STRENGTHS
            ]  # fmt: skip
            strength = _STRENGTHS[int(np.argmax(reached))]
            predicted[test] = _fit(known, labels[train], strength).predict(unknown)
    right = (predicted == labels).astype(np.float64)
    influence = np.bincount(unit_of, right - right.mean(), len(drawn)) / len(right)

    def on(chosen: Array) -> float:
        there = chosen[unit_of]
        return float(right[there].mean()) if there.any() else float("nan")

    return Scores(float(right.mean()), {}, linear_errors(influence, drawn), on, predicted)


def _fit(vectors: Array, labels: Array, strength: float) -> Any:  # noqa: ANN401 -- scikit-learn has no types
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 -- an extra

    return LogisticRegression(C=strength, max_iter=100, tol=1e-3).fit(vectors, labels)


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
