"""Rows that compare the gateway, or an export, with what it is made of; each takes a running stack."""

import itertools
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from bench.baselines.cost import cpu_seconds_each
from bench.load.corpus import OUT
from bench.load.generator import LoadGenerator
from bench.load.plan import Outcome
from bench.peers.pixels import decode
from bench.processes.pausing import alone
from bench.processes.stack import CONNECTIONS, Program, Stack, running
from bench.processes.usage import resident_megabytes
from bench.processes.worker import Worker
from bench.ratios.measured import Effort, Measured, Rounds, facts, versus
from bench.ratios.throughput import ideal_workers
from bench.reporting.comparison import Comparison, interleaved
from tests.e2e.processes import Gateway, free_port

_MODEL = "mobilenet_v2"
_TOGETHER = 64
"""Images of one request."""
_RUN: dict[str, Any] = {"per_request": 8, "connections": 8}
"""A bulk run as `microtome embed` makes it."""
_BESIDE = 0.07
"""Interactive images beside a bulk run, as a part of those that it has alone."""
_EXPORTS = {"mobilenet_v2": ("MobileNetV2", 1.45), "resnet50": ("ResNet50", 1.2)}
"""Backbones and their targets."""
_POPULATION = 1000
_GOODPUT = "images a CPU second of the servers at 10 times the peak rate ÷ at the peak, MobileNetV2, cold"
_MIXED = f"images/s of MobileNetV2, {_POPULATION} images drawn by popularity (1/r), cache empty at first ÷ all cold"


def hits(stack: Stack, effort: Effort) -> list[Comparison]:
    """P1, P2: compare hits of either tier with a bare endpoint."""
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
            },
            effort.rounds + 2,
        )
    return [
        _hits_compared("P1", "requests/s of memory hits ÷ bare FastAPI of equal bytes", 0.80, rounds, "memory"),
        _hits_compared("P2", "requests/s of Redis hits ÷ the same", 0.40, rounds, "redis"),
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
    # By CPU, since the load generator's part of the machine, which makes ten times the load, is none of the servers'.
    goodput = versus("P7", _GOODPUT, 0.90, rounds, ("flood", "peak"))
    clock = {"the same by the clock": goodput.rounds, **goodput.facts}
    return [
        Comparison(
            "P6",
            "p99 ÷ p50 at 70 % of capacity, MobileNetV2, cold, open loop",
            3.0,
            at_least=False,
            rounds=[each["p99"] / each["p50"] for each in latencies],
            facts=facts(rounds, "steady", "peak"),
        ),
        replace(goodput, rounds=goodput.by_cpu, by_cpu=[], facts=clock),
    ]


def bulk(stack: Stack, effort: Effort) -> list[Comparison]:
    """P11: compare CPU seconds per image of all processes with decoding and running batches as large in a loop."""
    one, loop = "one request", "loop"
    with ideal_workers(stack, _MODEL, _TOGETHER) as ideal:
        rounds = interleaved(
            {
                one: lambda: stack.cold(effort.seconds, _MODEL, per_request=_TOGETHER, connections=1),
                loop: alone(lambda: ideal(effort.seconds), stack.polling),
            },
            effort.rounds,
        )
    what = (
        f"CPU an image of {_TOGETHER} in one request ÷ decoding + inference of batches of {_TOGETHER} in a loop, cold"
    )
    ratios = [row[one].cpu_per_image / row[loop].cpu_per_image for row in rounds]
    return [Comparison("P11", what, 1.10, at_least=False, rounds=ratios, facts=facts(rounds, one, loop, one))]


def priority(stack: Stack, effort: Effort) -> list[Comparison]:
    """P12: send interactive images one by one: alone, beside a bulk run at full load, beside one that is not bulk."""
    path = f"/embed?model={_MODEL}"
    run = {**_RUN, "path": f"{path}&priority=bulk"}
    rate = _BESIDE * stack.cold(effort.seconds, _MODEL, **run).outcome.rate
    batches: list[float] = []
    works: list[float] = []
    kept: list[Outcome] = []
    with LoadGenerator() as generator:

        def bulk_alone() -> Measured:
            before = _calls(stack)
            found = stack.cold(effort.seconds, _MODEL, **run)
            since = {name: value - before[name] for name, value in _calls(stack).items()}
            batches.append(since["seconds"] / since["computed"])
            works.append(since["images"] / since["calls"] / found.outcome.rate)
            return found

        def beside(path: str) -> Measured:
            generator.begin(stack.load(3 * effort.seconds + 1, draw="cold", **{**run, "path": path}))
            time.sleep(0.5)
            found = interactive()
            kept.append(generator.end())
            return found

        def interactive() -> Measured:
            return stack.cold(3 * effort.seconds, _MODEL, mode="open", rate=rate)

        rounds = [
            {"idle": interactive(), "bulk alone": bulk_alone(), "beside bulk": beside(run["path"])}
            for _ in range(effort.rounds)
        ]
        rates = [outcome.rate for outcome in kept]
        plain = beside(path).outcome.latency
    latencies = {
        f"{rank} ms, {name}": [1e3 * row[name].outcome.latency[rank] for row in rounds]
        for rank in ("p50", "p99")
        for name in ("idle", "beside bulk")
    }
    latencies |= {f"{rank} ms, beside a run that is not bulk": [1e3 * plain[rank]] for rank in ("p50", "p99")}
    added = [row["beside bulk"].outcome.latency["p99"] - row["idle"].outcome.latency["p99"] for row in rounds]
    alone_rate = [row["bulk alone"].outcome.rate for row in rounds]
    told = {
        "ms of a bulk batch": [1e3 * each for each in batches],
        "ms of a bulk batch, if it ran alone": [1e3 * each for each in works],
        **latencies,
        "interactive images/s": [row["beside bulk"].outcome.rate for row in rounds],
        "foreign": [row["beside bulk"].foreign for row in rounds],
    }
    return [
        Comparison(
            "P12",
            "what a bulk run at full load adds to the p99 of interactive images ÷ the time of one of its batches",
            1.0,
            at_least=False,
            rounds=[more / batch for more, batch in zip(added, batches, strict=True)],
            facts=told,
        ),
        Comparison(
            "P12 bulk",
            f"images/s of the bulk run beside interactive ones ({_BESIDE:.0%} of its rate) ÷ alone",
            0.80,
            at_least=True,
            rounds=[rate / of for rate, of in zip(rates, alone_rate, strict=True)],
            facts={"images/s, alone": alone_rate, "images/s, beside": rates},
        ),
    ]


def _calls(stack: Stack) -> dict[str, float]:
    """Return what the near gateway has counted: calls of the model server, images in them, and seconds by image."""
    text = httpx.get(f"{stack.near.gateway.url}/metrics", trust_env=False).text
    counted = {
        "calls": rf'microtome_batch_images_count{{model="{_MODEL}"}}',
        "images": rf'microtome_batch_images_sum{{model="{_MODEL}"}}',
        "seconds": 'microtome_stage_seconds_sum{stage="infer"}',
        "computed": 'microtome_stage_seconds_count{stage="infer"}',
    }
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("microtome_"))
    return {name: float(lines.get(series, 0.0)) for name, series in counted.items()}


def start(stack: Stack, effort: Effort) -> list[Comparison]:
    """P10: start gateways over the running model server until they are ready; the first only warms the disk's cache."""
    _, *samples = [_started(stack) for _ in range(effort.rounds + 3)]
    seconds, megabytes = ([sample[part] for sample in samples] for part in (0, 1))
    what = "gateway, from fork to ready"
    return [
        Comparison("P10 start", f"{what}: seconds", 1.0, at_least=False, rounds=seconds, unit=" s"),
        Comparison("P10 memory", f"{what}: resident memory", 100.0, at_least=False, rounds=megabytes, unit=" MB"),
    ]


def _started(stack: Stack) -> tuple[float, float]:
    """Return the seconds from fork to ready, and the resident megabytes (VmRSS) then."""
    directory = stack.directory / "starts"
    directory.mkdir(exist_ok=True)
    gateway = Gateway(directory, stack.near.model_server.address, log_level="error")
    begin = time.perf_counter()
    gateway.launch()
    try:
        while not gateway.serving():
            assert gateway.running, gateway.last_lines()
            time.sleep(0.005)
        return time.perf_counter() - begin, resident_megabytes(gateway.pid)
    finally:
        gateway.destroy()


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
