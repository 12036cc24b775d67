"""Ratios of contestants that run in the same minute, in rotating order, so that a busy machine slows all alike."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self, TypeVar

Name = TypeVar("Name")
T = TypeVar("T")


def interleaved(contestants: Mapping[Name, Callable[[], T]], rounds: int) -> list[dict[Name, T]]:
    """Run each contestant once a round, every round beginning with another one."""
    names = list(contestants)
    results: list[dict[Name, T]] = []
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
        target: What the median should reach; None where there is no target.
        at_least: Whether more is better.
        rounds: The ratio in each round; empty when it could not be measured.
        unit: Empty for ratios.
        facts: Numbers behind it, one per round.
        by_cpu: The same ratio from CPU seconds instead of wall-clock, where both are known. Other work on the
            machine disturbs it far less.
        digits: Shown behind the point.
        reason: Why there are no rounds.
    """

    key: str
    what: str
    target: float | None
    at_least: bool
    rounds: list[float]
    unit: str = ""
    facts: dict[str, list[float]] = field(default_factory=dict)
    by_cpu: list[float] = field(default_factory=list)
    digits: int = 2
    reason: str = ""

    @property
    def median(self) -> float | None:
        """The figure; None when there is none."""
        return statistics.median(self.rounds) if self.rounds else None

    @property
    def met(self) -> bool:
        """Whether the median reaches the target, by the clock."""
        return self.median is not None and self._reached(self.median)

    @property
    def verdict(self) -> str:
        """Say `met` or `not met`; where clock and CPU time disagree, others had the machine, and it is `unclear`.

        Empty where there is no target.
        """
        if not self.rounds:
            return "not measured"
        if self.target is None:
            return ""
        if self.by_cpu and self.met != self._reached(statistics.median(self.by_cpu)):
            return "unclear"
        return "met" if self.met else "not met"

    @property
    def sought(self) -> str:
        """The target with its sign; empty where there is none."""
        return "" if self.target is None else f"{'≥' if self.at_least else '≤'} {self.target:g}{self.unit}"

    @property
    def measured(self) -> str:
        """The figure with its spread."""
        return cell(self.rounds, self.unit, self.digits)

    def _reached(self, value: float) -> bool:
        return self.target is not None and (value >= self.target if self.at_least else value <= self.target)

    def as_json(self) -> dict[str, Any]:
        """Return all of it, with what follows from it."""
        return {**asdict(self), "median": self.median, "verdict": self.verdict}

    @classmethod
    def from_json(cls, written: dict[str, Any]) -> Self:
        """Read what `as_json` wrote, or an earlier form of it."""
        return cls(**{each.name: written[each.name] for each in fields(cls) if each.name in written})


def cell(values: list[float], unit: str = "", digits: int = 2) -> str:
    """Write a median and the spread from the least to the most."""
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.{digits}f}{unit}"
    middle = f"{statistics.median(values):.{digits}f}{unit}"
    return f"{middle} ({min(values):.{digits}f} to {max(values):.{digits}f})"
