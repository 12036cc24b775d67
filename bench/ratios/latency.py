"""P6, P7: latency near capacity, and throughput far beyond it. Open loop, cold cache."""

from bench.processes.stack import Stack
from bench.ratios.measured import Effort, facts, versus
from bench.reporting.comparison import Comparison

MODEL = "mobilenet_v2"


def measure(stack: Stack, effort: Effort) -> list[Comparison]:
    """Find the peak, then offer 70 % and 1000 % of it, in every round."""
    rounds = []
    for _ in range(effort.rounds):
        peak = stack.cold(effort.seconds, MODEL)
        rate = peak.outcome.rate
        steady = stack.cold(3 * effort.seconds, MODEL, mode="open", rate=0.7 * rate, connections=256)
        flood = stack.cold(1.5 * effort.seconds, MODEL, mode="open", rate=10 * rate, connections=512)
        rounds.append({"peak": peak, "steady": steady, "flood": flood})
    latencies = [row["steady"].outcome.latency for row in rounds]
    # By CPU, P7 is the cost of refusals to the servers; the clock includes the load generator's part of the machine.
    return [
        Comparison(
            "P6",
            "p99 ÷ p50 at 70 % of capacity, MobileNetV2, cold, open loop",
            3.0,
            at_least=False,
            rounds=[each["p99"] / each["p50"] for each in latencies],
            facts=facts(rounds, "steady", "peak"),
        ),
        versus("P7", "goodput at 10 times the peak rate ÷ peak, MobileNetV2, cold", 0.90, rounds, ("flood", "peak")),
    ]
