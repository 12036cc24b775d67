"""P1, P2: cache hits compared with a FastAPI endpoint that only reads and writes as many bytes.

A stream of gRPC is compared with the same hits over HTTP; that has no target.
"""

import sys
from dataclasses import replace

from bench.processes.stack import Program, Stack, running
from bench.ratios.measured import Effort, Rounds, versus
from bench.reporting.comparison import Comparison, interleaved
from tests.e2e.processes import free_port


def measure(stack: Stack, effort: Effort) -> list[Comparison]:
    """Compare hits of either tier with the bare endpoint, and hits over a stream with those over HTTP."""
    stack.put(3.0)
    outcome = stack.put(0.5).outcome
    port, answer = free_port(), str(outcome.bytes_received // outcome.answered)
    bare = Program([sys.executable, "-m", "bench.baselines.bare", str(port), answer], port)
    with running(bare):
        rounds = interleaved(
            {
                "bare": lambda: stack.watched({"bare": bare.pid}, effort.seconds, port=port),
                "memory": lambda: stack.put(effort.seconds),
                "redis": lambda: stack.put(effort.seconds, stack.far),
                "stream": lambda: stack.put(effort.seconds, port=stack.grpc_port, mode="stream"),
            },
            effort.rounds + 2,
        )
    return [
        _compared("P1", "requests/s of memory hits ÷ bare FastAPI of equal bytes", 0.80, rounds, "memory"),
        _compared("P2", "requests/s of Redis hits ÷ the same", 0.40, rounds, "redis"),
        versus("stream", "images/s of memory hits, EmbedStream ÷ HTTP", None, rounds, ("stream", "memory")),
    ]


def _compared(key: str, what: str, target: float, rounds: Rounds, tier: str) -> Comparison:
    # The gateway's own CPU: that of Redis is spent elsewhere.
    by_cpu = [row["bare"].cpu_of("bare") / row[tier].cpu_of("gateway") for row in rounds]
    return replace(versus(key, what, target, rounds, (tier, "bare")), by_cpu=by_cpu)
