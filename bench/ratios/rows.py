"""Rows that compare the gateway, or an export, with what it is made of; each takes a running stack."""

import itertools
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.baselines.cost import cpu_seconds_each
from bench.load.corpus import OUT
from bench.peers.pixels import decode
from bench.processes.stack import CONNECTIONS, Program, Stack, running
from bench.processes.worker import Worker
from bench.ratios.measured import Effort, Measured, Rounds, facts, versus
from bench.reporting.comparison import Comparison, interleaved
from tests.e2e.processes import free_port

_MODEL = "mobilenet_v2"
_TOGETHER = 64
"""Images of one request."""
_EXPORTS = {"mobilenet_v2": ("MobileNetV2", 1.45), "resnet50": ("ResNet50", 1.2)}
"""Backbones and their targets."""
_POPULATION = 1000
_MIXED = f"images/s of MobileNetV2, {_POPULATION} images drawn by popularity (1/r), cache empty at first ÷ all cold"


def hits(stack: Stack, effort: Effort) -> list[Comparison]:
    """P1, P2: compare hits of either tier with a bare endpoint, and, without a target, a stream with HTTP."""
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
        _hits_compared("P1", "requests/s of memory hits ÷ bare FastAPI of equal bytes", 0.80, rounds, "memory"),
        _hits_compared("P2", "requests/s of Redis hits ÷ the same", 0.40, rounds, "redis"),
        versus("stream", "images/s of memory hits, EmbedStream ÷ HTTP", None, rounds, ("stream", "memory")),
    ]


def _hits_compared(key: str, what: str, target: float, rounds: Rounds, tier: str) -> Comparison:
    # The gateway's own CPU: that of Redis is spent elsewhere.
    by_cpu = [row["bare"].cpu_of("bare") / row[tier].cpu_of("gateway") for row in rounds]
    return replace(versus(key, what, target, rounds, (tier, "bare")), by_cpu=by_cpu)


def misses(stack: Stack, effort: Effort) -> list[Comparison]:
    """P3: compare the gateway's CPU of a miss with a loop over Pillow, by callers, photo size, way of decoding."""
    photos, large = stack.corpus.photos, stack.corpus.large
    fast = {"path": "/embed?model=lite0_fast"}
    return [
        _misses_compared(stack, effort, key, what, target, paths, options)
        for key, what, target, paths, options in (
            ("P3", "gateway CPU per miss ÷ Pillow decode + resize in a loop, 8 callers", 1.35, photos, {}),
            ("P3 32", "the same, 32 callers", 1.25, photos, {"connections": CONNECTIONS}),
            ("P3 12 MP", "the same, 8 callers, photos of 12 megapixels", 1.10, large, {}),
            ("P3 fast", "the same with decode: fast ÷ the loop as before, 8 callers", 0.85, photos, fast),
            ("P3 fast 32", "the same, 32 callers", 0.85, photos, {**fast, "connections": CONNECTIONS}),
        )
    ]


def _misses_compared(  # noqa: PLR0913, PLR0917, a row
    stack: Stack, effort: Effort, key: str, what: str, target: float, paths: list[str], options: dict[str, Any]
) -> Comparison:
    images = itertools.cycle([Path(path).read_bytes() for path in paths])
    # Pillow's loop is that of `decode: balanced` in every row.
    spec = stack.manifest("lite0")["input"]
    missed: list[Measured] = []
    loops: list[float] = []
    interleaved(
        {
            "gateway": lambda: missed.append(stack.put(effort.seconds, images=paths, draw="cold", **options)),
            "loop": lambda: loops.append(cpu_seconds_each(lambda: decode(next(images), spec), effort.seconds / 2)),
        },
        effort.rounds,
    )
    return Comparison(
        key,
        what,
        target,
        at_least=False,
        rounds=[run.cpu_of("gateway") / loop for run, loop in zip(missed, loops, strict=True)],
        facts={"loop CPU ms": [1e3 * loop for loop in loops], **facts([{"gateway": run} for run in missed], "gateway")},
    )


def latency(stack: Stack, effort: Effort) -> list[Comparison]:
    """P6, P7: find the peak, then offer 70 % and 1000 % of it, in every round; open loop, cold cache."""
    rounds = []
    for _ in range(effort.rounds):
        peak = stack.cold(effort.seconds, _MODEL)
        rate = peak.outcome.rate
        steady = stack.cold(3 * effort.seconds, _MODEL, mode="open", rate=0.7 * rate, connections=256)
        flood = stack.cold(1.5 * effort.seconds, _MODEL, mode="open", rate=10 * rate, connections=512)
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


def bulk(stack: Stack, effort: Effort) -> list[Comparison]:
    """P11: compare CPU seconds per image of all processes, cold, and for hits, where only requests cost time."""
    return [
        _bulk_compared(
            stack, effort, "P11", "CPU of 64 images in one request ÷ 64 requests, MobileNetV2, cold", "cold"
        ),
        _bulk_compared(stack, effort, "P11 hits", "the same with memory hits", "warm"),
    ]


def _bulk_compared(stack: Stack, effort: Effort, key: str, what: str, draw: str) -> Comparison:
    def put(per_request: int, connections: int) -> Measured:
        return stack.cold(effort.seconds, "mobilenet_v2", draw=draw, per_request=per_request, connections=connections)

    if draw == "warm":
        put(1, 8)
    one, many = "one request", f"{_TOGETHER} requests"
    rounds = interleaved({one: lambda: put(_TOGETHER, 1), many: lambda: put(1, 8)}, effort.rounds)
    ratios = [row[one].cpu_per_image / row[many].cpu_per_image for row in rounds]
    return Comparison(key, what, 0.80, at_least=False, rounds=ratios, facts=facts(rounds, one, many, one))


def export(_stack: Stack, effort: Effort) -> list[Comparison]:
    """P8: compare CPU seconds of the same batches in sessions over both kinds of SavedModel."""
    return [_export_compared(effort, model) for model in _EXPORTS]


def _export_compared(effort: Effort, model: str) -> Comparison:
    backbone, target = _EXPORTS[model]
    words = [backbone, str(OUT / "frozen" / model), str(effort.rounds + 2), str(effort.seconds / 2)]
    with Worker("bench.baselines.frozen", *words, quiet=True) as worker:
        rounds = worker.receive()["rounds"]
    return Comparison(
        f"P8 {model}",
        f"frozen export ÷ Keras' model.export(), images per CPU second, {backbone}, batch 8, one thread",
        target,
        at_least=True,
        rounds=[row["plain"] / row["frozen"] for row in rounds],
        facts={
            "frozen CPU ms": [1e3 * row["frozen"] for row in rounds],
            "model.export() CPU ms": [1e3 * row["plain"] for row in rounds],
        },
    )


def mixed(stack: Stack, effort: Effort) -> list[Comparison]:
    """Compare Zipf-drawn images, from a cache that has none of them, with images that never repeat."""
    series = itertools.count(int.from_bytes(os.urandom(4)))  # no two runs share bodies either

    def zipf() -> Measured:
        return stack.cold(effort.seconds, _MODEL, draw="zipf", population=_POPULATION, series=next(series))

    rounds = interleaved({"cold": lambda: stack.cold(effort.seconds, _MODEL), "zipf": zipf}, effort.rounds)
    return [versus("Zipf", _MIXED, None, rounds, ("zipf", "cold"))]
