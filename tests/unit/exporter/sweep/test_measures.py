"""The measures, against plain loops and scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score
from sklearn.neighbors import KNeighborsClassifier

from exporter.features.resampling import resamples
from exporter.sweep.measures import Neighbours, Pairs
from exporter.sweep.probe import probe

Array = np.ndarray[Any, Any]


def sample(count: int = 90, classes: int = 4) -> tuple[Array, Array]:
    """Return labels and vectors that say something about them."""
    numbers = np.random.default_rng(7)
    labels = numbers.integers(0, classes, count)
    return labels, (numbers.normal(size=(classes, 6))[labels] + numbers.normal(size=(count, 6))).astype(np.float32)


def neighbours(labels: Array, primary: str) -> Neighbours:
    """Return a leave-one-out task."""
    every = np.arange(len(labels))
    drawn = resamples(len(labels), 0)
    return Neighbours(labels, every, every, every, every, drawn, primary, classes=primary.endswith("-NN"))


@pytest.mark.parametrize("primary", ["recall@1", "mAP"])
def test_recalls_and_average_precision(primary: str) -> None:
    """recall@k and mAP, leave-one-out by cosine, whichever of them decides."""
    labels, vectors = sample()
    found = neighbours(labels, primary).score(vectors)
    values = {**found.others, primary: found.estimate}
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit.T
    precision: list[float] = []
    hits: dict[int, list[bool]] = {1: [], 5: [], 10: []}
    for query in range(len(labels)):
        rest = np.arange(len(labels)) != query
        same = labels[rest] == labels[query]
        precision.append(average_precision_score(same, cosines[query, rest]))
        order = np.argsort(-cosines[query, rest])
        for count, found_ in hits.items():
            found_.append(same[order[:count]].any())
    assert values["mAP"] == pytest.approx(np.mean(precision), abs=1e-6)
    assert [values[f"recall@{count}"] for count in hits] == pytest.approx([np.mean(each) for each in hits.values()])


def test_nearest_neighbour_classifiers() -> None:
    """1-NN is scikit-learn's; 20-NN too, but for ties of votes, which the more similar class wins."""
    labels, vectors = sample()
    found = neighbours(labels, "20-NN").score(vectors)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    right = {1: 0, 20: 0}
    for query in range(len(labels)):
        rest = np.arange(len(labels)) != query
        for count in right:
            model = KNeighborsClassifier(count).fit(unit[rest], labels[rest])
            right[count] += int(model.predict(unit[[query]])[0] == labels[query])
    assert found.others["1-NN"] == pytest.approx(right[1] / len(labels))
    assert found.estimate == pytest.approx(right[20] / len(labels), abs=3 / len(labels))


def test_equal_vectors_help_nothing() -> None:
    """Where all vectors are equal, photos of other classes are ranked first."""
    labels, vectors = sample()
    found = neighbours(labels, "recall@1").score(np.ones_like(vectors))
    assert (found.estimate, found.others["recall@10"]) == (0, 0)


def test_photos_of_a_group_do_not_find_each_other() -> None:
    """The copy beside each photo is its own group's, and is passed over."""
    labels, vectors = sample()
    twice, groups = np.repeat(labels, 2), np.repeat(np.arange(len(labels)), 2)
    every = np.arange(len(twice))
    drawn = resamples(len(labels), 0)
    wide = np.repeat(vectors, 2, axis=0)
    kept = Neighbours(twice, every, every, groups, groups, drawn, "recall@1", classes=False).score(wide)
    assert kept.estimate == neighbours(labels, "recall@1").score(vectors).estimate
    assert neighbours(twice, "recall@1").score(wide).estimate == 1


def test_area_under_precision_and_recall_of_pairs() -> None:
    """As scikit-learn's average precision, with a threshold that one per cent of different pairs exceed."""
    labels, vectors = sample()
    first, second = np.triu_indices(len(labels), 1)
    same = labels[first] == labels[second]
    every = np.arange(len(labels))
    found = Pairs(first, second, same, every, resamples(len(labels), 0)).score(vectors)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = (unit[first] * unit[second]).sum(axis=1)
    assert found.estimate == pytest.approx(average_precision_score(same, cosines), abs=1e-6)
    alarms = (cosines[~same] > found.others["threshold"] + 1e-6).mean()
    assert 0.005 <= alarms <= 0.01


@pytest.mark.parametrize("sizes", [(2, 1), (2, 2), (30, 1), (3, 30, 1), (2,) * 12])
def test_a_linear_probe_of_few_photos_and_of_rare_classes(sizes: tuple[int, ...]) -> None:
    """Folds are as many as the photos allow, and every photo gets a class, also where a fold knows one class only."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    vectors = np.random.default_rng(0).normal(size=(len(labels), 4)) + 5 * np.eye(12)[labels][:, :4]
    units = np.arange(len(labels))
    found = probe(vectors, labels, units, resamples(len(labels), 0), 0)
    assert found.predicted is not None
    assert set(found.predicted) <= set(labels)
    assert found.estimate == pytest.approx((found.predicted == labels).mean())


@pytest.mark.parametrize("primary", ["recall@1", "recall@10", "mAP", "20-NN"])
def test_chance_is_what_random_vectors_reach(primary: str) -> None:
    """Mean over random vectors, within what 20 sets can say; a vote of 20 is below the largest class."""
    labels, _ = sample()
    found = neighbours(labels, primary)
    reached = [found.score(np.random.default_rng(seed).normal(size=(90, 6))).estimate for seed in range(20)]
    if primary == "20-NN":
        assert np.mean(reached) <= found.chance + 0.02
    else:
        assert np.mean(reached) == pytest.approx(found.chance, abs=0.02)
