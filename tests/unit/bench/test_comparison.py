"""Ratios: who runs when, and what counts as met."""

from functools import partial

import pytest

from bench.comparison import Comparison, cell, interleaved


def test_every_contestant_runs_once_a_round_and_each_round_begins_with_another() -> None:
    """Whoever runs first in a round has no advantage over all rounds."""
    order: list[str] = []
    interleaved({name: partial(order.append, name) for name in "abc"}, rounds=3)
    assert ["a", "b", "c", "b", "c", "a", "c", "a", "b"] == order


@pytest.mark.parametrize(
    ("at_least", "rounds", "met"),
    [
        (True, [0.5, 0.9, 2.0], True),
        (True, [0.5, 0.8, 2.0], False),
        (False, [0.5, 0.8, 2.0], True),
        (False, [1.0], False),
    ],
)
def test_the_median_decides_whether_a_target_is_met(at_least: bool, rounds: list[float], met: bool) -> None:
    """One lucky round is not enough, in either direction."""
    assert met == Comparison("P", "", 0.9, at_least=at_least, rounds=rounds).met


def test_a_figure_is_shown_with_its_spread() -> None:
    """Median, least and most; nothing is claimed where nothing was measured."""
    assert "0.90 (0.50 to 2.00)" == cell([2.0, 0.5, 0.9])
    assert "-" == cell([])


def test_a_verdict_is_unclear_when_clock_and_cpu_time_disagree() -> None:
    """On a busy machine one side may have had more of it than the other."""
    assert "unclear" == Comparison("P", "", 0.9, at_least=True, rounds=[2.0], by_cpu=[0.8]).verdict
    assert "met" == Comparison("P", "", 0.9, at_least=True, rounds=[2.0], by_cpu=[0.95]).verdict
    assert "not met" == Comparison("P", "", 0.9, at_least=True, rounds=[0.1], by_cpu=[0.8]).verdict
