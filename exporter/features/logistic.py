"""Logistic regression on vectors, its strength chosen by cross-validation: the sweep's probe and the heads of train."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from exporter.errors import ImpossibleOption

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
_USUAL = 1.0
"""The strength with too few photos to choose one."""

Array = np.ndarray[Any, Any]


def want_scikit_learn(purpose: str, instead: str = "") -> None:
    """Check that scikit-learn is installed.

    Args:
        purpose: What it is needed for.
        instead: A sentence with a way on without it.

    Raises:
        ImpossibleOption: It is not.
    """
    try:
        import sklearn  # noqa: F401, PLC0415 -- an extra; only some uses need it
    except ImportError:
        raise ImpossibleOption(
            f"Expected scikit-learn for {purpose}. Received: it is not installed. Run pip install scikit-learn"
            f"{instead or '.'}"
        ) from None


@contextmanager
def quiet_on_one_thread() -> Iterator[None]:
    """Run scikit-learn on one thread and without its warnings.

    The matrices are small, so threads would wait for each other. The warnings are of classes that are smaller than the
    number of folds, and of regressions of little regularisation.
    """
    from threadpoolctl import threadpool_limits  # noqa: PLC0415 -- a part of scikit-learn

    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")
        yield


def folds(count: int, labels: Array, units: Array, seed: int) -> list[tuple[Array, Array]]:
    """Divide photos into folds that are stratified by class and keep units whole.

    Args:
        count: Number of folds; fewer where units or photos of the largest class are fewer.
        labels: Class of each photo, int [photos].
        units: Unit of each photo, which is never in training and test; int [photos].
        seed: Of the division.

    Returns:
        Indices of training and test photos of each fold that has both; none where two cannot be made.
    """
    from sklearn.model_selection import StratifiedGroupKFold  # noqa: PLC0415 -- an extra

    count = min(count, len(np.unique(units)), int(np.unique(labels, return_counts=True)[1].max(initial=0)))
    if count < 2:
        return []
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    found = splitter.split(np.zeros((len(labels), 1)), labels, units)
    return [(train, test) for train, test in found if len(train) and len(test)]


def best_strength(vectors: Array, labels: Array, splits: Sequence[tuple[Array, Array]]) -> float:
    """Return the strength whose regressions classify most photos of other folds rightly.

    Args:
        vectors: Standardised, float [photos, dimensions].
        labels: Class of each photo, int [photos].
        splits: Indices of training and test photos; the usual strength is returned without any.
    """
    if not splits:
        return _USUAL
    reached = [
        np.mean([(classified(vectors[a], labels[a], one, vectors[b]) == labels[b]).mean() for a, b in splits])
        for one in STRENGTHS
    ]
    return STRENGTHS[int(np.argmax(reached))]


def classified(vectors: Array, labels: Array, strength: float, others: Array) -> Array:
    """Fit a regression, and return the classes that it predicts for other vectors, int [others]."""
    if (labels == labels[0]).all():  # a rare class is in the other part as a whole
        return np.full(len(others), labels[0])
    return np.asarray(fitted(vectors, labels, strength).predict(others))


def fitted(vectors: Array, labels: Array, strength: float, weights: Array | None = None) -> Any:  # noqa: ANN401 -- scikit-learn has no types
    """Return a logistic regression on standardised vectors."""
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 -- an extra

    return LogisticRegression(C=strength, max_iter=100, tol=1e-3).fit(vectors, labels, weights)


def axes_of(known: Array) -> Array | None:
    """Return the axes of the span of standardised vectors, [span, dimensions]; None where it is not smaller.

    A regression with an L2 penalty is the same in the span, and several times faster in fewer dimensions.
    """
    if known.shape[1] <= len(known):
        return None
    _, _, axes = np.linalg.svd(known, full_matrices=False)
    return np.asarray(axes)
