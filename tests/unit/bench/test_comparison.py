"""Ratios: who runs when, and what counts as met."""

from functools import partial

import pytest

from bench.reporting.comparison import Comparison, cell, interleaved


def test_every_contestant_runs_once_a_round_and_each_round_begins_with_another() -> None:
    """Every contestant runs first equally often."""
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


def test_what_has_no_target_or_no_rounds_is_not_judged() -> None:
    """Neither met nor missed; a figure near 1 can be shown with the digits that matter."""
    assert "" == Comparison("P", "", None, at_least=True, rounds=[1.0]).verdict
    failed = Comparison("P", "", 1.5, at_least=True, rounds=[], by_cpu=[], reason="no such thing")
    assert ("not measured", None, "-") == (failed.verdict, failed.median, failed.measured)
    assert "0.999995" == Comparison("P", "", 0.9999, at_least=True, rounds=[0.999995], digits=6).measured


def test_a_comparison_comes_back_from_its_file() -> None:
    """One of an earlier kind as well, which has not all fields."""
    kept = Comparison("P", "what", 0.9, at_least=True, rounds=[1.0], unit=" s", facts={"a": [1.0]}, by_cpu=[2.0])
    assert kept == Comparison.from_json(kept.as_json())
    early = {name: value for name, value in kept.as_json().items() if name not in {"digits", "reason"}}
    assert kept == Comparison.from_json(early)
