"""`python -m bench.capacity [RESULT]`: compare the simulator with a measured result, and size clusters by its costs.

Written between the marks of docs/capacity.md. Without a name, from the result that docs/benchmarks.md shows.
"""

import json
import math
import statistics
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from bench.capacity.costs import Costs, gpu_rates, redis_bytes
from bench.capacity.simulation import Cluster, Simulation
from bench.load.corpus import REPOSITORY
from bench.reporting.marks import fill
from bench.reporting.results import RESULTS, newest

PAGE = REPOSITORY / "docs" / "capacity.md"
TOLERANCE = 0.15
HEADROOM = 0.7
"""Planned use of a core or a GPU; beyond it waiting grows faster than work."""
RATES = (100, 10_000, 1_000_000)
HIT_RATES = (0.0, 0.5, 0.9, 0.99)
CALLERS = 32


def main(path: Path) -> None:
    """Write what docs/capacity.md shows."""
    costs, rates = Costs.measured(path), gpu_rates()
    costs = replace(costs, gpu=1 / min(rates.values()))
    parts = {"check": check(path, costs), "costs": described(costs, rates), "clusters": clusters(costs, rates)}
    parts |= {"events": cold_cache(costs), "memory": memory()}
    PAGE.write_text(fill(PAGE.read_text(), parts))
    print(parts["check"])


def described(costs: Costs, rates: Mapping[str, float]) -> str:
    """List the costs that the simulation uses."""
    gpus = ", ".join(f"{1e3 / rate:.1f} ({name})" for name, rate in rates.items())
    return (
        f"Core milliseconds: hit {1e3 * costs.hit:.2f}, miss {1e3 * costs.miss:.2f}, Redis {1e3 * costs.redis:.3f}, "
        f"inference of MobileNetV2 {1e3 * costs.inference:.1f}. GPU milliseconds: {gpus}."
    )


def check(path: Path, costs: Costs) -> str:
    """Compare with the images a second measured in the same result."""
    result = json.loads(path.read_text())
    cores, foreign = result["about"]["cores"], result["about"]["foreign"]
    (served,) = (each["facts"] for each in result["comparisons"] if each["key"] == "P4 mobilenet_v2")
    cluster = Cluster(cores, cores, costs.inference, shared=True)
    simulated = Simulation(cluster, costs, 0.0).saturated(CALLERS, 60.0)
    measured = statistics.median(served["images/s"])
    error = simulated.rate / measured - 1
    verdict = "within" if abs(error) <= TOLERANCE else "not within"
    return (
        f"{cores} cores, MobileNetV2, cold, {CALLERS} callers: simulated {simulated.rate:.0f} images/s, measured "
        f"{measured:.0f}: {100 * error:+.0f} %, {verdict} {100 * TOLERANCE:.0f} %. Others used "
        f"{100 * foreign:.0f} % of the machine meanwhile."
    )


def clusters(costs: Costs, rates: Mapping[str, float]) -> str:
    """Count cores, GPUs of each rate and Redis shards for several rates and hit rates."""
    columns = "".join(f" GPUs ({name}) |" for name in rates)
    rows = [
        f"| images/s | hit rate | gateway cores |{columns} Redis cores | most of all |",
        f"|---|---|---|{'---|' * len(rates)}---|---|",
    ]
    for rate in RATES:
        for hit_rate in HIT_RATES:
            cores, _, redis = needed(costs, rate, hit_rate)
            gpus = [needed(replace(costs, gpu=1 / each), rate, hit_rate)[1] for each in rates.values()]
            first = max((cores, "gateways"), (max(gpus), "GPUs"), (redis, "Redis"))[1]
            cells = " | ".join(f"{number:,}" for number in (cores, *gpus, redis))
            rows.append(f"| {rate:,} | {hit_rate:.0%} | {cells} | {first} |")
    return "\n".join(rows)


def needed(costs: Costs, rate: float, hit_rate: float) -> tuple[int, int, int]:
    """Return cores of gateways, GPUs and cores of Redis, each used to `HEADROOM`."""
    missed = rate * (1 - hit_rate)
    # A miss reads Redis and writes.
    gateways = rate * hit_rate * costs.hit + missed * costs.miss
    redis = rate * costs.redis + missed * costs.redis
    return (
        math.ceil(gateways / HEADROOM),
        math.ceil(missed * costs.gpu / HEADROOM),
        math.ceil(redis / HEADROOM),
    )


def cold_cache(costs: Costs) -> str:
    """Simulate a cluster sized for 1,000 images/s at 90 % hits: as planned, without a zone, with a cold cache."""
    cores, gpus, _ = needed(costs, 1000, 0.9)
    rows = ["| | answered/s | p50 | p99 | gateways busy | GPUs busy |", "|---|---|---|---|---|---|"]
    cases = {
        "as planned": (cores, 0.9),
        "one of three zones lost": (math.floor(cores * 2 / 3), 0.9),
        "cache cold": (cores, 0.0),
    }
    for name, (left, hit_rate) in cases.items():
        cluster = Cluster(max(1, left), gpus, costs.gpu)
        got = Simulation(cluster, costs, hit_rate).offered(1000, 20.0)
        rows.append(
            f"| {name}: {left} cores, {gpus} GPU | {got.rate:.0f} | {1e3 * got.p50:.1f} ms | {1e3 * got.p99:.0f} ms | "
            f"{got.gateway_use:.0%} | {got.server_use:.0%} |"
        )
    return "\n".join(rows)


def memory() -> str:
    """Tabulate the memory of a billion vectors in Redis."""
    rows = ["| dimensions | float32 | float16 | int8 |", "|---|---|---|---|"]
    for dimensions in (512, 1280, 2048):
        cells = [f"{redis_bytes(10**9, dimensions, size) / 1e12:.2f} TB" for size in (4, 2, 1)]
        rows.append(f"| {dimensions} | {' | '.join(cells)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else newest(RESULTS))
