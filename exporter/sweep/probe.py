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
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 -- an extra
    from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold  # noqa: PLC0415
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415
    from sklearn.preprocessing import StandardScaler  # noqa: PLC0415

    unit = normalised(vectors)
    outer = StratifiedGroupKFold(_OUTER, shuffle=True, random_state=seed)
    predicted = np.full(len(labels), -1)
    grid = {"logisticregression__C": list(_STRENGTHS)}
    with warnings.catch_warnings():
        # Classes that are smaller than the number of folds, and regressions of little regularisation.
        warnings.simplefilter("ignore")
        for train, test in outer.split(unit, labels, unit_of):
            inner = StratifiedGroupKFold(_INNER, shuffle=True, random_state=seed)
            model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
            search = GridSearchCV(model, grid, cv=list(inner.split(unit[train], labels[train], unit_of[train])))
            predicted[test] = search.fit(unit[train], labels[train]).predict(unit[test])
    right = (predicted == labels).astype(np.float64)
    influence = np.bincount(unit_of, right - right.mean(), len(drawn)) / len(right)

    def on(chosen: Array) -> float:
        there = chosen[unit_of]
        return float(right[there].mean()) if there.any() else float("nan")

    return Scores(float(right.mean()), {}, linear_errors(influence, drawn), on, predicted)
