"""Heads, temperatures, thresholds and doubts on vectors whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from exporter.features.logistic import quiet_on_one_thread
from exporter.head.dense import DenseHead
from exporter.train.calibration import gated, reliability, softmax, temperature_for, threshold_for
from exporter.train.figures import doubts, figures
from exporter.train.heads import Examples, Kind, Method, fit, out_of_fold, strength_for, usual_kind


def planted(classes: int, each: int, noise: float = 0.5, seed: int = 0) -> Examples:
    """Return vectors of length one around a centre for each class."""
    numbers = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, 12))
    labels = np.repeat(np.arange(classes), each)
    vectors = centres[labels] + noise * numbers.normal(size=(len(labels), 12))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    count = len(labels)
    return Examples(vectors, labels, np.arange(count), np.ones(count), np.ones(count, bool), classes)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("kind", ["logistic", "mean", "mlp"])
def test_every_method_finds_planted_classes(kind: Kind, classes: int) -> None:
    """Two classes too, for which scikit-learn has one logit; a head is an affine map or a small network, no more."""
    examples, others = planted(classes, 20), planted(classes, 30, seed=1)
    method = Method(kind, (16,) if kind == "mlp" else (), seed=3)
    with quiet_on_one_thread():
        strength = strength_for(examples, 0)
        head = fit(examples, method, strength)
        aside = out_of_fold(examples, method, strength)
    assert len(head.layers) == (2 if kind == "mlp" else 1)
    assert head.classes == classes
    assert (head.logits(others.vectors).argmax(axis=1) == others.labels).mean() > 0.9
    assert (aside.argmax(axis=1) == examples.labels).mean() > 0.9


def test_a_class_without_examples_is_never_the_answer() -> None:
    """A fold may lack a class; its logits then lose against all others."""
    examples = planted(3, 10)
    with quiet_on_one_thread():
        head = fit(examples.part(examples.labels != 1), Method("logistic"), 1.0)
    found = head.logits(examples.vectors)
    assert found.shape[1] == 3
    assert 1 not in found.argmax(axis=1)


def test_balancing_makes_up_for_a_rare_class() -> None:
    """With noisy classes of 60 and 6, the rare one is found more often when classes weigh the same."""
    both = planted(2, 60, noise=2.5)
    part = both.part(np.flatnonzero((both.labels == 0) | (np.arange(120) % 10 == 0)))
    test = planted(2, 100, noise=2.5, seed=5)
    with quiet_on_one_thread():
        heads = [fit(part, Method("logistic", balanced=balanced), 0.1) for balanced in (False, True)]
    recall = [(head.logits(test.vectors).argmax(axis=1) == 1)[100:].mean() for head in heads]
    assert recall[1] > recall[0]


def test_few_photos_of_a_class_get_the_nearest_mean() -> None:
    """The usual method depends on the median class."""
    assert usual_kind(np.repeat([0, 1, 2], [3, 4, 50])) == "mean"
    assert usual_kind(np.repeat([0, 1, 2], [3, 40, 50])) == "logistic"


@pytest.mark.parametrize("truth", [0.3, 1.0, 4.0])
def test_the_temperature_that_was_planted_is_found(truth: float) -> None:
    """Labels are drawn by softmax(logits / truth); dividing by it makes scores mean what they say."""
    numbers = np.random.default_rng(0)
    logits = numbers.normal(size=(20_000, 5)) * 3
    labels = (softmax(logits, truth).cumsum(axis=1) > numbers.random((20_000, 1))).argmax(axis=1)
    found = temperature_for(logits, labels)
    assert found == pytest.approx(truth, rel=0.08)
    after = reliability(softmax(logits, found), labels)
    assert after.ece < 0.02
    assert after.floor < 0.02
    assert reliability(softmax(logits), labels).ece >= after.ece - 0.005


def test_refusals_keep_to_their_rate_and_strangers_are_refused() -> None:
    """Of photos of known classes the wanted share is refused; vectors of no class lose their scores."""
    examples, others = planted(4, 50), planted(4, 200, seed=1)
    method = Method("logistic")
    with quiet_on_one_thread():
        head = fit(examples, method, 1.0)
        aside = out_of_fold(examples, method, 1.0)
    temperature = temperature_for(aside, examples.labels)
    head, remains = gated(head, examples.vectors, examples.units, 0.025, 0)
    threshold = threshold_for(softmax(aside * remains[:, None], temperature), 0.05)
    refused = softmax(head.logits(others.vectors), temperature).max(axis=1) < threshold
    assert refused.mean() < 0.1
    strangers = -others.vectors
    assert (softmax(head.logits(strangers), temperature).max(axis=1) < threshold).mean() > 0.9
    assert (softmax(DenseHead(head.layers).logits(strangers), temperature).max(axis=1) < threshold).mean() < 0.9


def test_a_swapped_label_is_doubted_and_figures_add_up() -> None:
    """The photo with another class's label comes first; the confusion matrix holds each held-out photo once."""
    examples = planted(3, 30)
    labels = examples.labels.copy()
    labels[4] = 2
    wrong = Examples(examples.vectors, labels, examples.units, examples.weights, examples.whole, 3)
    with quiet_on_one_thread():
        aside = out_of_fold(wrong, Method("logistic"), 1.0)
    found = doubts(aside, labels, 1.0)
    assert found[0].photo == 4
    assert found[0].other == 0
    held = np.arange(len(labels)) % 3 == 0
    whole = figures(aside, labels, examples.units, held, ("a", "b", "c"), 1.0, None, 0)
    assert whole.confusion.sum() == held.sum() == whole.accuracy.photos
    low, high = whole.accuracy.interval
    assert low < whole.accuracy.value <= high
    assert whole.refused.value == 0
    assert [one.held_out for one in whole.classes] == [10, 10, 10]
