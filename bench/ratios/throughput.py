"""P4: images a second on all cores with a cold cache, compared with decoding and inference alone."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from bench.processes.pausing import alone
from bench.processes.stack import Measured, Stack
from bench.ratios.effort import Effort
from bench.reporting.comparison import Comparison, interleaved

CONNECTIONS = 32
BATCH = 8
TARGETS = {"mobilenet_v2": 0.85, "resnet50": 0.92}
CORES = len(os.sched_getaffinity(0))

Work = dict[str, float]


def measure(stack: Stack, effort: Effort) -> list[Comparison]:
    """Compare for a light and a heavy network."""
    return [_compared(stack, effort, model) for model in TARGETS]


def _compared(stack: Stack, effort: Effort, model: str) -> Comparison:
    seconds = effort.seconds * 1.5
    load = stack.load(seconds, path=f"/embed?model={model}", draw="cold", connections=CONNECTIONS)
    stack.put(stack.load(1.0, path=f"/embed?model={model}", draw="cold", connections=CONNECTIONS))
    served: list[Measured] = []
    ideals: list[Work] = []
    with ideal_workers(stack, model) as workers:
        interleaved(
            {
                "service": lambda: served.append(stack.put(load)),
                "ideal": alone(lambda: ideals.append(work(workers, seconds)), stack.polling),
            },
            effort.rounds,
        )
    pairs = list(zip(served, ideals, strict=True))
    return Comparison(
        f"P4 {model}",
        f"images/s of {model}, cold, on all cores ÷ ideal (decode + inference in a loop per core)",
        TARGETS[model],
        at_least=True,
        rounds=[ours.outcome.rate / ideal["rate"] for ours, ideal in pairs],
        by_cpu=[(ideal["decode"] + ideal["infer"]) / ours.cpu_per_image for ours, ideal in pairs],
        facts={
            "images/s": [ours.outcome.rate for ours in served],
            "images/s, ideal": [ideal["rate"] for ideal in ideals],
            "gateway CPU ms": [1e3 * ours.cpu_of("gateway") for ours in served],
            "model server CPU ms": [1e3 * ours.cpu_of("model server") for ours in served],
            "ideal decode CPU ms": [1e3 * ideal["decode"] for ideal in ideals],
            "ideal inference CPU ms": [1e3 * ideal["infer"] for ideal in ideals],
            "foreign": [ours.foreign for ours in served],
        },
    )


@contextmanager
def ideal_workers(stack: Stack, model: str) -> Iterator[list["subprocess.Popen[str]"]]:
    """Start a process per core that decodes and runs batches; see `work`."""
    words = [sys.executable, "-m", "bench.baselines.ideal", str(stack.saved_model(model)), str(BATCH)]
    workers = [
        subprocess.Popen(
            [*words, *stack.corpus.photos],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for _ in range(CORES)
    ]
    try:
        work(workers, 0.2)  # until all are there and warm
        yield workers
    finally:
        for worker in workers:
            worker.kill()
            worker.__exit__(None, None, None)


def work(workers: list["subprocess.Popen[str]"], seconds: float) -> Work:
    """Run all workers at the same time; returns their images a second together, and CPU seconds per image."""
    for worker in workers:
        if worker.stdin is not None:
            worker.stdin.write(f"{seconds}\n")
            worker.stdin.flush()
    done = [json.loads(worker.stdout.readline()) for worker in workers if worker.stdout is not None]
    images = sum(each["images"] for each in done)
    return {
        "rate": sum(each["images"] / each["seconds"] for each in done),
        "decode": sum(each["decode"] for each in done) / images,
        "infer": sum(each["infer"] for each in done) / images,
    }
