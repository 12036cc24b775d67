"""P1, P2: cache hits compared with a FastAPI endpoint that only reads and writes as many bytes."""

import sys

from bench.processes.stack import Measured, Stack, listening, watched
from bench.ratios.effort import Effort
from bench.reporting.comparison import Comparison, interleaved
from tests.e2e.processes import free_port

CONNECTIONS = 8


def measure(stack: Stack, effort: Effort) -> list[Comparison]:
    """Compare hits of either tier with the bare endpoint."""
    answer = _warm(stack)
    port = free_port()
    with listening([sys.executable, "-m", "bench.baselines.bare", str(port), str(answer)], port) as pid:

        def bare() -> Measured:
            return watched(stack.generator, stack.load(effort.seconds, port=port), {"gateway": pid})

        def far() -> Measured:
            return stack.put(stack.load(effort.seconds, port=stack.far_gateway.port), stack.far_gateway)

        rounds = interleaved(
            {"bare": bare, "memory": lambda: stack.put(stack.load(effort.seconds)), "redis": far}, effort.rounds + 2
        )
    return [
        _compared("P1", "requests/s of memory hits ÷ bare FastAPI of equal bytes", 0.80, "memory", rounds),
        _compared("P2", "requests/s of Redis hits ÷ the same", 0.40, "redis", rounds),
    ]


def _warm(stack: Stack) -> int:
    """Have every photo in both tiers; returns the bytes of one answer."""
    stack.put(stack.load(3.0, connections=CONNECTIONS))
    outcome = stack.put(stack.load(0.5, connections=CONNECTIONS)).outcome
    return outcome.bytes_received // outcome.answered


def _compared(key: str, what: str, target: float, tier: str, rounds: list[dict[str, Measured]]) -> Comparison:
    pairs = [(row[tier], row["bare"]) for row in rounds]
    return Comparison(
        key,
        what,
        target,
        at_least=True,
        rounds=[ours.outcome.rate / bare.outcome.rate for ours, bare in pairs],
        # The gateway's own CPU: that of Redis is spent elsewhere, and counted below.
        by_cpu=[bare.cpu_of("gateway") / ours.cpu_of("gateway") for ours, bare in pairs],
        facts={
            "requests/s": [ours.outcome.rate for ours, _ in pairs],
            "requests/s, bare": [bare.outcome.rate for _, bare in pairs],
            "gateway CPU ms": [1e3 * ours.cpu_of("gateway") for ours, _ in pairs],
            "bare CPU ms": [1e3 * bare.cpu_of("gateway") for _, bare in pairs],
            "Valkey CPU ms": [1e3 * ours.cpu_of("valkey") for ours, _ in pairs],
            "load generator, part of a core": [ours.outcome.cpu_seconds / ours.outcome.seconds for ours, _ in pairs],
            "foreign": [ours.foreign for ours, _ in pairs],
        },
    )
