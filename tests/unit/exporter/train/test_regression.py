"""Ridge regressions in the span, networks, boxes and their figures, against what a library or a formula says."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from exporter.features.logistic import quiet_on_one_thread
from exporter.train.regression import (
    Measuring,
    Span,
    fit_network,
    fit_ridge,
    overlaps,
    strengths_for,
    unit_folds,
)

NUMBERS = np.random.default_rng(0)


@pytest.mark.parametrize("length", [5, 9000])
def test_a_ridge_regression_is_scikit_learns(length: int) -> None:
    """In the vectors' own dimensions, and where they are many more than the photos; columns have their own strength."""
    vectors = NUMBERS.normal(3, 2, (40, length)).astype(np.float32)
    values = np.stack([vectors[:, 0] - vectors[:, 1], 100 + vectors[:, 2]], axis=1).astype(np.float64)
    span = Span.of(vectors)
    head = fit_ridge(span, values, (0.01, 1.0))
    known = (vectors - vectors.mean(axis=0, dtype=np.float64)) / vectors.std(axis=0, dtype=np.float64)
    usual = (known**2).sum() / min(span.inside.shape)
    for place, strength in enumerate((0.01, 1.0)):
        expected = Ridge(alpha=strength * usual).fit(known, values[:, place]).predict(known)
        assert np.allclose(head.logits(vectors)[:, place], expected, atol=2e-4 * np.abs(expected).max())


def test_the_strength_follows_the_noise() -> None:
    """Numbers that the vectors say are fitted closely, and chance is not fitted at all."""
    vectors = NUMBERS.normal(0, 1, (80, 30)).astype(np.float32)
    values = np.stack([vectors[:, 0].astype(np.float64), NUMBERS.normal(0, 1, 80)], axis=1)
    sure, chance = strengths_for(Span.of(vectors), values, np.arange(80), 0)
    assert sure < 0.1
    assert chance > 1


def test_a_network_learns_what_no_line_says() -> None:
    """The absolute value of a number."""
    vectors = NUMBERS.normal(0, 1, (300, 2)).astype(np.float32)
    values = 50 + 5 * np.abs(vectors[:, :1]).astype(np.float64)
    span = Span.of(vectors)
    with quiet_on_one_thread():
        network, line = fit_network(span, values, (16,), 0), fit_ridge(span, values, (1e-3,))
    wrong = [float(np.abs(head.logits(vectors) - values).mean()) for head in (network, line)]
    assert wrong[0] < wrong[1] / 2


def test_overlaps_of_boxes() -> None:
    """The same, half, none, inside, and one of no size."""
    said = np.array([[0, 0, 1, 1], [0, 0, 0.5, 1], [0, 0, 0.2, 0.2], [0.25, 0.25, 0.5, 0.5], [0.2, 0.2, -1, 1]])
    wanted = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [0.5, 0.5, 0.2, 0.2], [0, 0, 1, 1], [0, 0, 1, 1]], np.float64)
    assert np.allclose(overlaps(said, wanted), [1, 0.5, 0, 0.25, 0])


def test_figures_are_of_the_answers() -> None:
    """R² of the mean is 0 and of the truth 1; intervals hold the value; the paired one is narrower than both."""
    values = NUMBERS.normal(10, 2, (60, 1))
    mean = values.mean(axis=0)
    measuring = Measuring(values, np.arange(60), mean, 0)
    noise = NUMBERS.normal(0, 0.1, (60, 1))
    plain, sure = np.broadcast_to(mean, values.shape), measuring.column(values + noise, None, 0, "a", "kg")
    assert abs(measuring.column(plain, None, 0, "a", "").r2.value) < 1e-9
    assert sure.r2.value > 0.98
    assert sure.error.value == pytest.approx(np.abs(noise).mean())
    assert sure.error.interval[0] < sure.error.value < sure.error.interval[1]
    assert sure.mean.better.interval[0] > 0
    beside = measuring.column(values + noise, values + 1.1 * noise, 0, "a", "").average
    assert beside is not None
    assert 0 < beside.better.interval[0] < beside.better.value < 0.02


def test_one_value_has_no_r2() -> None:
    """It is not a number, rather than minus infinity."""
    found = Measuring(np.ones((5, 1)), np.arange(5), np.zeros(1), 0).column(np.zeros((5, 1)), None, 0, "a", "")
    assert np.isnan(found.r2.value)


def test_folds_keep_units_whole() -> None:
    """Every photo is tested on once."""
    units = np.repeat(np.arange(7), 3)
    found = unit_folds(units, 5, 0)
    assert sorted(np.concatenate([test for _, test in found])) == list(range(21))
    assert all(not set(units[train]) & set(units[test]) for train, test in found)
