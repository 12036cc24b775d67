"""Intervals that cover, ties, held-out selection and the decision, on vectors whose truth is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from exporter.features.resampling import resamples
from exporter.sweep.measures import Neighbours
from exporter.sweep.statistics import compare, decide, optimism

Array = np.ndarray[Any, Any]

CLASSES, WIDTH = 10, 12


def photos(count: int, seed: int) -> tuple[Array, Array]:
    """Return labels, and what is to be seen on each photo."""
    numbers = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(CLASSES, WIDTH))
    labels = numbers.integers(0, CLASSES, count)
    return labels, centres[labels] + 0.9 * numbers.normal(size=(count, WIDTH))


def seen(shown: Array, noise: float, seed: int) -> Array:
    """Return vectors of what is shown, with noise."""
    return (shown + noise * np.random.default_rng(seed).normal(size=shown.shape)).astype(np.float32)


def task(labels: Array, primary: str = "recall@1", units: Array | None = None) -> Neighbours:
    """Return a task in which every photo looks for the others of its class."""
    every = np.arange(len(labels))
    unit_of = every if units is None else units
    drawn = resamples(int(unit_of.max()) + 1, 0)
    return Neighbours(labels, every, every, unit_of, unit_of, drawn, primary, classes=primary.endswith("-NN"))


@pytest.mark.parametrize("primary", ["recall@1", "recall@5", "mAP", "1-NN", "20-NN"])
def test_paired_intervals_cover(primary: str) -> None:
    """Of 40 small sets, the interval of the difference of two candidates misses the mean difference at most thrice."""
    differences, intervals = [], []
    for seed in range(40):
        labels, shown = photos(120, seed + 1)
        found = task(labels, primary)
        one, other = (found.score(seen(shown, noise, seed + 100 * at)) for at, noise in enumerate((0.5, 0.7), start=1))
        compared = compare([one.estimate, other.estimate], [one.errors, other.errors], 0, 0.0, [0, 1])
        differences.append(other.estimate - one.estimate)
        intervals.append(compared.against_default[1])
    truth = float(np.mean(differences))
    assert truth < -0.01
    assert sum(not low <= truth <= high for low, high in intervals) <= 3


def test_planted_candidate_wins() -> None:
    """A candidate that sees the labels best is recommended over a default that sees them worse."""
    labels, shown = photos(300, 1)
    found = task(labels)
    scores = [found.score(seen(shown, noise, at)) for at, noise in enumerate((2.0, 0.1, 1.5, 3.0))]
    costs = [3, 2, 1, 0]
    compared = compare([one.estimate for one in scores], [one.errors for one in scores], 0, found.chance, costs)
    decision = decide(compared, 0, costs, len(labels))
    assert (decision.recommended, decision.verdict) == (1, "better")


@pytest.mark.parametrize("seed", range(5))
def test_shuffled_labels_recommend_nothing(seed: int) -> None:
    """Without anything to see in the labels, the default stands, though others are cheaper and one of them is best."""
    labels, shown = photos(200, seed)
    found = task(np.random.default_rng(seed).permutation(labels))
    scores = [found.score(seen(shown, 0.3 * at, at)) for at in range(12)]
    costs = list(range(12))[::-1]
    compared = compare([one.estimate for one in scores], [one.errors for one in scores], 0, found.chance, costs)
    decision = decide(compared, 0, costs, len(labels))
    assert (decision.recommended, decision.verdict) == (0, "default")


def test_fewer_than_ten_photos_recommend_nothing() -> None:
    """Resamples of nine agree with each other, whatever the truth is."""
    labels = np.arange(9) % 3
    vectors = np.eye(3)[labels]
    found = task(labels)
    scores = [found.score(one) for one in (np.ones((9, 3)), vectors)]
    compared = compare([one.estimate for one in scores], [one.errors for one in scores], 0, found.chance, [1, 0])
    assert decide(compared, 0, [1, 0], len(labels)).verdict == "default"
    assert decide(compared, 0, [1, 0], 10).verdict == "better"


def test_intervals_are_within_what_a_measure_can_be() -> None:
    """From 0 to 1, and -1 to 1 for differences."""
    errors = np.random.default_rng(0).normal(0, 0.3, (2, 1000))
    found = compare([0.98, 0.05], list(errors), 0, 0.0, [0, 1])
    assert (found.intervals[0][1], found.intervals[1][0], found.against_default[1][0]) == (1, 0, -1)
    assert found.against_default[0] == (0, 0)


def test_the_cheapest_of_the_tied_is_recommended() -> None:
    """Two views of all but the same quality are tied, and the cheaper one is taken; one that is far worse is not."""
    labels, shown = photos(300, 3)
    found = task(labels)
    scores = [found.score(seen(shown, noise, at)) for at, noise in enumerate((0.50, 0.51, 4.0))]
    costs = [2, 1, 0]
    compared = compare([one.estimate for one in scores], [one.errors for one in scores], 0, found.chance, costs)
    decision = decide(compared, 0, costs, len(labels))
    assert compared.tied == [True, True, False]
    assert (decision.recommended, decision.verdict) == (1, "cheaper")


def test_choosing_among_equals_is_seen_to_flatter() -> None:
    """The best of 20 views of equal quality looks better than it is, and the held-out figure says so."""
    labels, shown = photos(200, 4)
    found = task(labels)
    scores = [found.score(seen(shown, 1.0, at)) for at in range(20)]
    price = optimism([one.on for one in scores], [one.estimate for one in scores], 0, len(labels), 0)
    assert price is not None
    assert price.selection_bias > 0.02
    assert price.held_out < price.apparent


def test_groups_are_drawn_whole_and_widen_intervals() -> None:
    """Four photos of each object are no four independent photos."""
    labels, shown = photos(80, 5)
    labels, shown = np.repeat(labels, 4), np.repeat(shown, 4, axis=0)
    vectors = seen(shown, 0.3, 1)
    grouped = task(labels, "mAP", np.repeat(np.arange(80), 4)).score(vectors)
    alone = task(labels, "mAP").score(vectors)
    assert grouped.errors.std() > 1.5 * alone.errors.std()
    assert grouped.estimate < alone.estimate
