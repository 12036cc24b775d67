"""Ratios of things that run in the same minute, in turning order, so that a busy machine slows all alike."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")


def interleaved(contestants: Mapping[str, Callable[[], T]], rounds: int) -> list[dict[str, T]]:
    """Run each contestant once a round, every round beginning with another one."""
    names = list(contestants)
    results: list[dict[str, T]] = []
    for number in range(rounds):
        turn = number % len(names)
        results.append({name: contestants[name]() for name in names[turn:] + names[:turn]})
    return results


@dataclass(frozen=True, slots=True)
class Comparison:
    """One of the ratios that decide.

    Attributes:
        key: Such as `P1`.
        what: In words.
        target: What the median should reach.
        at_least: Whether more is better.
        rounds: The ratio in each round.
        unit: Empty for ratios.
        facts: Numbers behind it, one per round.
        by_cpu: The same ratio from CPU seconds instead of wall-clock, where both can be told. Other work on the
            machine disturbs it far less.
    """

    key: str
    what: str
    target: float
    at_least: bool
    rounds: list[float]
    unit: str = ""
    facts: dict[str, list[float]] = field(default_factory=dict)
    by_cpu: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The figure."""
        return statistics.median(self.rounds)

    @property
    def met(self) -> bool:
        """Whether the median reaches the target, by the clock."""
        return self._reached(self.median)

    @property
    def verdict(self) -> str:
        """Say `met` or `not met`; where clock and CPU time disagree, others had the machine, and it is `unclear`."""
        if self.by_cpu and self.met != self._reached(statistics.median(self.by_cpu)):
            return "unclear"
        return "met" if self.met else "not met"

    def _reached(self, value: float) -> bool:
        return value >= self.target if self.at_least else value <= self.target

    def as_json(self) -> dict[str, Any]:
        """Return all of it, with what follows from it."""
        fields = {
            name: getattr(self, name) for name in ("key", "what", "target", "at_least", "rounds", "unit", "facts")
        }
        return {**fields, "by_cpu": self.by_cpu, "median": self.median, "verdict": self.verdict}


def cell(values: list[float], unit: str = "") -> str:
    """Write a median and the spread from the least to the most."""
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.2f}{unit}"
    return f"{statistics.median(values):.2f}{unit} ({min(values):.2f} to {max(values):.2f})"
