"""P6, P7: latency near capacity, and throughput far beyond it. Open loop, cold cache."""

from bench.processes.stack import Measured, Stack
from bench.ratios.effort import Effort
from bench.reporting.comparison import Comparison

PATH = "/embed?model=mobilenet_v2"
CONNECTIONS = 32
MANY_CONNECTIONS = 512


def measure(stack: Stack, effort: Effort) -> list[Comparison]:
    """Find the peak, then offer 70 % and 1000 % of it, in every round."""
    peaks: list[Measured] = []
    steady: list[Measured] = []
    flooded: list[Measured] = []
    for _ in range(effort.rounds):
        peaks.append(stack.put(stack.load(effort.seconds, path=PATH, draw="cold", connections=CONNECTIONS)))
        rate = peaks[-1].outcome.rate
        steady.append(_offered(stack, 0.7 * rate, 3 * effort.seconds, 256))
        flooded.append(_offered(stack, 10 * rate, 1.5 * effort.seconds, MANY_CONNECTIONS))
    return [_steady(steady, peaks), _flooded(flooded, peaks)]


def _offered(stack: Stack, rate: float, seconds: float, connections: int) -> Measured:
    return stack.put(stack.load(seconds, path=PATH, draw="cold", mode="open", rate=rate, connections=connections))


def _steady(runs: list[Measured], peaks: list[Measured]) -> Comparison:
    latencies = [run.outcome.latency for run in runs]
    return Comparison(
        "P6",
        "p99 ÷ p50 at 70 % of capacity, MobileNetV2, cold, open loop",
        3.0,
        at_least=False,
        rounds=[each["p99"] / each["p50"] for each in latencies],
        facts={
            **{f"{p} ms": [1e3 * each[p] for each in latencies] for p in latencies[0]},
            "offered/s": [0.7 * peak.outcome.rate for peak in peaks],
            **_cpu(peaks, runs),
            "foreign": [run.foreign for run in runs],
        },
    )


def _flooded(runs: list[Measured], peaks: list[Measured]) -> Comparison:
    return Comparison(
        "P7",
        "goodput at 10 times the peak rate ÷ peak, MobileNetV2, cold",
        0.90,
        at_least=True,
        rounds=[run.outcome.rate / peak.outcome.rate for run, peak in zip(runs, peaks, strict=True)],
        # The cost of refusals to the servers; the clock includes the load generator's part of the machine.
        by_cpu=[peak.cpu_per_image / run.cpu_per_image for run, peak in zip(runs, peaks, strict=True)],
        facts={
            "peak/s": [peak.outcome.rate for peak in peaks],
            "goodput/s": [run.outcome.rate for run in runs],
            "refused/s": [run.outcome.statuses.get("429", 0) / run.outcome.seconds for run in runs],
            "neither 200 nor 429": [
                float(sum(n for status, n in run.outcome.statuses.items() if status not in {"200", "429"}))
                for run in runs
            ],
            **_cpu(peaks, runs),
            "p99 ms of the answered": [1e3 * run.outcome.latency.get("p99", 0.0) for run in runs],
            "load generator, part of a core": [run.outcome.cpu_seconds / run.outcome.seconds for run in runs],
            "foreign": [run.foreign for run in runs],
        },
    )


def _cpu(peaks: list[Measured], runs: list[Measured]) -> dict[str, list[float]]:
    return {
        "gateway CPU ms, peak": [1e3 * peak.cpu_of("gateway") for peak in peaks],
        "gateway CPU ms": [1e3 * run.cpu_of("gateway") for run in runs],
        "model server CPU ms, peak": [1e3 * peak.cpu_of("model server") for peak in peaks],
        "model server CPU ms": [1e3 * run.cpu_of("model server") for run in runs],
    }
