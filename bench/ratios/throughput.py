"""P4: images a second on all cores with a cold cache, compared with decoding and inference alone."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from bench.load.plan import Outcome
from bench.processes.pausing import alone
from bench.processes.stack import Stack
from bench.processes.worker import Worker
from bench.ratios.measured import Effort, Measured, versus
from bench.reporting.comparison import Comparison, interleaved

BATCH = 8
TARGETS = {"mobilenet_v2": 0.85, "resnet50": 0.92}
CORES = len(os.sched_getaffinity(0))


def measure(stack: Stack, effort: Effort) -> list[Comparison]:
    """Compare for a light and a heavy network."""
    return [_compared(stack, effort, model) for model in TARGETS]


def _compared(stack: Stack, effort: Effort, model: str) -> Comparison:
    seconds = effort.seconds * 1.5
    stack.cold(1.0, model)
    with ideal_workers(stack, model) as ideal:
        contestants = {
            "service": lambda: stack.cold(seconds, model),
            "ideal": alone(lambda: ideal(seconds), stack.polling),
        }
        rounds = interleaved(contestants, effort.rounds)
    what = f"images/s of {model}, cold, on all cores ÷ ideal (decode + inference in a loop per core)"
    return versus(f"P4 {model}", what, TARGETS[model], rounds, ("service", "ideal"))


@contextmanager
def ideal_workers(stack: Stack, model: str, batch: int = BATCH) -> Iterator[Callable[[float], Measured]]:
    """Start a process per core that decodes and runs batches; yield a function that runs all for some seconds."""
    words = ["bench.baselines.ideal", str(stack.saved_model(model)), str(batch), *stack.corpus.photos]
    with ExitStack() as ends:
        workers = [ends.enter_context(Worker(*words, quiet=True)) for _ in range(CORES)]

        def work(seconds: float) -> Measured:
            for worker in workers:
                worker.send(seconds)
            done = [worker.receive() for worker in workers]
            images, rate = sum(each["images"] for each in done), sum(each["images"] / each["seconds"] for each in done)
            cpu = {f"ideal {part}": sum(each[part] for each in done) for part in ("decode", "inference")}
            return Measured(Outcome({}, images / rate, {}, images, 0, 0.0), cpu)

        work(0.2)  # until all are there and warm
        yield work
