"""From logits to labels: order, functions, temperature, ties."""

from dataclasses import replace

import numpy as np
import pytest

from microtome.manifest import Label, OutputSpec
from service.core.classes import ClassOptions, Function, predicted, scores
from service.core.requests import Embedding

NUMBERS = 50


def output(temperature: float = 1.0) -> OutputSpec:
    """An output of so many classes."""
    labels = tuple(Label(f"class {number}") for number in range(NUMBERS))
    plain = OutputSpec("o", "l", "none", None, (NUMBERS,), "float32", 0, None, None)
    return replace(plain, kind="classes", labels=labels, temperature=temperature)


@pytest.mark.parametrize("function", ["softmax", "sigmoid", "none"])
@pytest.mark.parametrize("top_k", [1, 5, NUMBERS - 1, NUMBERS, 1000])
def test_the_best_come_first_as_sorting_all_of_them_gives(function: Function, top_k: int) -> None:
    """Whatever the function; equal scores in the order of the classes."""
    logits = np.random.default_rng(0).integers(-20, 20, NUMBERS).astype(np.float32)
    logits[:top_k] += np.arange(min(top_k, NUMBERS)) / 1000  # no tie across the last place
    found = predicted(Embedding(0, "o", logits, "hit"), output(), ClassOptions(top_k, function=function)).labels
    values = scores(logits, output(), function)
    expected = sorted(range(NUMBERS), key=lambda index: (-logits[index], index))[:top_k]
    assert [float(values[index]) for index in expected] == [label.score for label in found]
    assert [f"class {label.index}" for label in found] == [label.label for label in found]


def test_functions_are_exact_at_both_ends() -> None:
    """Large logits neither overflow nor become something that is no number."""
    logits = np.array([-1e4, 0.0, 1e4], np.float32)
    with np.errstate(all="raise", under="ignore"):
        assert [0.0, 0.5, 1.0] == scores(logits, output(), "sigmoid").tolist()
        assert [0.0, 0.0, 1.0] == scores(logits, output(), "softmax").tolist()


def test_temperature_divides_logits_and_not_answers_of_logits() -> None:
    """Scores of a temperature of 2 are those of half the logits."""
    logits = np.array([1.0, 2.0, 4.0], np.float32)
    assert (
        scores(logits / np.float32(2), output(), "softmax").tolist()
        == scores(logits, output(temperature=2.0), "softmax").tolist()
    )
    assert [1.0, 2.0, 4.0] == scores(logits, output(temperature=2.0), "none").tolist()
