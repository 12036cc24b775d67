"""Throughput where images repeat by popularity, with a cache that is empty at first. It has no target."""

import itertools
import os

from bench.processes.stack import Measured, Stack
from bench.ratios.effort import Effort
from bench.reporting.comparison import Comparison, interleaved

CONNECTIONS = 32
POPULATION = 1000
PATH = "/embed?model=mobilenet_v2"


def measure(stack: Stack, effort: Effort) -> list[Comparison]:
    """Compare Zipf-drawn images, from a cache that has none of them, with images that never repeat."""
    series = itertools.count(int.from_bytes(os.urandom(4)))  # no two runs share bodies either
    cold = stack.load(effort.seconds, path=PATH, draw="cold", connections=CONNECTIONS)

    def zipf() -> Measured:
        options = {"path": PATH, "draw": "zipf", "population": POPULATION, "series": next(series)}
        return stack.put(stack.load(effort.seconds, connections=CONNECTIONS, **options))

    rounds = interleaved({"cold": lambda: stack.put(cold), "zipf": zipf}, effort.rounds)
    pairs = [(row["zipf"], row["cold"]) for row in rounds]
    return [
        Comparison(
            "Zipf",
            f"images/s of MobileNetV2, {POPULATION} images drawn by popularity (1/r), cache empty at first ÷ all cold",
            None,
            at_least=True,
            rounds=[mixed.outcome.rate / cold.outcome.rate for mixed, cold in pairs],
            by_cpu=[cold.cpu_per_image / mixed.cpu_per_image for mixed, cold in pairs],
            facts={
                "images/s": [mixed.outcome.rate for mixed, _ in pairs],
                "images/s, cold": [cold.outcome.rate for _, cold in pairs],
                "part computed, by the model server's CPU": [
                    mixed.cpu_of("model server") / cold.cpu_of("model server") for mixed, cold in pairs
                ],
                "gateway CPU ms": [1e3 * mixed.cpu_of("gateway") for mixed, _ in pairs],
                "p50 ms": [1e3 * mixed.outcome.latency["p50"] for mixed, _ in pairs],
                "p99 ms": [1e3 * mixed.outcome.latency["p99"] for mixed, _ in pairs],
                "foreign": [mixed.foreign for mixed, _ in pairs],
            },
        )
    ]
