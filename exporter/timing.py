"""Time two ways to do one thing in turns: machines differ and wander, so only the ratio is worth remembering."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Took:
    """What one run took, in seconds.

    Attributes:
        clock: By the clock.
        processor: On all cores together; other processes do not count.
    """

    clock: float
    processor: float


@dataclass(frozen=True, slots=True)
class Ratios:
    """How many times as long one side took as the other.

    Attributes:
        clock: The median of all turns, by the clock.
        spread: The middle half of those, from and to.
        processor: The median of all turns, by processor time.
    """

    clock: float
    spread: tuple[float, float]
    processor: float


def timed(run: Callable[[], object]) -> Took:
    """Run something and return what that took."""
    clock, processor = time.perf_counter(), time.process_time()
    run()
    return Took(time.perf_counter() - clock, time.process_time() - processor)


def compare(ones: Sequence[Took], others: Sequence[Took]) -> Ratios:
    """Compare two sides, turn by turn; there must be as many of each."""
    pairs = list(zip(ones, others, strict=True))
    by_clock = sorted(one.clock / other.clock for one, other in pairs)
    quarter = len(by_clock) // 4
    return Ratios(
        round(statistics.median(by_clock), 3),
        (round(by_clock[quarter], 3), round(by_clock[-1 - quarter], 3)),
        round(statistics.median(one.processor / other.processor for one, other in pairs), 3),
    )
