"""Throughput where images repeat by popularity, with a cache that is empty at first. It has no target."""

import itertools
import os

from bench.processes.stack import Stack
from bench.ratios.measured import Effort, Measured, versus
from bench.reporting.comparison import Comparison, interleaved

MODEL = "mobilenet_v2"
POPULATION = 1000
WHAT = f"images/s of MobileNetV2, {POPULATION} images drawn by popularity (1/r), cache empty at first ÷ all cold"


def measure(stack: Stack, effort: Effort) -> list[Comparison]:
    """Compare Zipf-drawn images, from a cache that has none of them, with images that never repeat."""
    series = itertools.count(int.from_bytes(os.urandom(4)))  # no two runs share bodies either

    def zipf() -> Measured:
        return stack.cold(effort.seconds, MODEL, draw="zipf", population=POPULATION, series=next(series))

    rounds = interleaved({"cold": lambda: stack.cold(effort.seconds, MODEL), "zipf": zipf}, effort.rounds)
    return [versus("Zipf", WHAT, None, rounds, ("zipf", "cold"))]
