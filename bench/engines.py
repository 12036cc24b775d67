"""The model server's engines on this machine: images per second and processor time per image, in turns.

    python bench/engines.py --models DIR [--model NAME] [--engine NAME] [--precision float32 bfloat16]
                            [--rounds 3] [--seconds 5]

Contestants: TensorFlow; OpenVINO with two batches at a time, its default; OpenVINO with one batch at a time on all
cores (``--tensorflow_inter_op_parallelism=1``); each in every precision that is named. Each is a model server of its
own, with batching; 32 clients ask for one image each in a closed loop. The other servers are idle meanwhile. Processor
time is the server's own, so it is meaningful on a busy machine too, where images per second are not.

Engines in the first precision are compared with TensorFlow in it; other precisions with the same engine in the first
precision, also by the worst cosine between the vectors of 16 images.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY))

import numpy as np  # noqa: E402

from bench.model_server import CLIENTS, SIDE, over_grpc  # noqa: E402
from bench.processes.usage import cpu_seconds  # noqa: E402
from bench.reporting.comparison import cell, interleaved  # noqa: E402
from tests.contract.tfserving.requests import Array, floats, images, predict  # noqa: E402
from tests.contract.tfserving.server_process import Client, ServerProcess, eventually  # noqa: E402

CORES = len(os.sched_getaffinity(0))
ENGINES: Mapping[str, tuple[str, ...]] = {
    "tensorflow": ("--engine=tensorflow",),
    "openvino": ("--engine=openvino",),
    "openvino, one at a time": ("--engine=openvino", "--tensorflow_inter_op_parallelism=1"),
}
PRECISIONS: Mapping[str, str] = {"float32": "--mixed_precision=", "bfloat16": "--mixed_precision=bfloat16"}
START_SECONDS = 600.0
"""Enough for busy machines."""

Contestant = tuple[str, str]
"""An engine, and a precision."""

Sample = tuple[float, float]
"""Images per second, and the server's processor milliseconds per image."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models", type=Path, required=True, help="a models directory, as `microtome export` writes it"
    )
    parser.add_argument("--model", action="append", help="models of it to measure (all)")
    parser.add_argument("--engine", action="append", choices=tuple(ENGINES), help="contestants (all)")
    parser.add_argument(
        "--precision", nargs="+", choices=tuple(PRECISIONS), default=["float32"], help="one or both (float32)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often each contestant runs (3)")
    parser.add_argument("--seconds", type=float, default=5.0, help="for how long each time (5)")
    options = parser.parse_args()
    contestants = [(engine, precision) for precision in options.precision for engine in options.engine or ENGINES]
    for model in options.model or sorted(path.name for path in options.models.iterdir() if path.is_dir()):
        samples, vectors = measure(options.models.resolve() / model, options.rounds, options.seconds, contestants)
        print_table(model, samples, vectors)


def measure(
    model: Path, rounds: int, seconds: float, contestants: Sequence[Contestant]
) -> tuple[Mapping[Contestant, list[Sample]], Mapping[Contestant, Array]]:
    """Run all contestants in rotating order; return their samples of each round, and vectors of the same images."""
    vectors: dict[Contestant, Array] = {}
    with tempfile.TemporaryDirectory(prefix="bench") as place, ExitStack() as stack:
        common = (f"--model_base_path={model}", f"--model_name={model.name}", "--enable_batching",
                  "--enable_serialization_as_tensor_content")  # fmt: skip
        servers: dict[Contestant, ServerProcess] = {}
        for engine, precision in contestants:
            server = ServerProcess(Path(place) / str(len(servers)), *common, *ENGINES[engine], PRECISIONS[precision])
            servers[engine, precision] = stack.enter_context(server)
            wait_for(server)
            vectors[engine, precision] = ask(server.address, model.name)
            over_grpc(server.address, model.name, 2.0)
        contest = {name: partial(sample, server, model.name, seconds) for name, server in servers.items()}
        found = interleaved(contest, rounds)
    return {name: [row[name] for row in found] for name in servers}, vectors


def ask(address: str, model: str) -> Array:
    """Embed some images; vectors of all outputs, concatenated."""
    with Client(address) as client:
        answer = client.predict(predict(model, inputs={"images": images(16, side=SIDE)}), START_SECONDS)
    outputs = [floats(answer.outputs[name]) for name in sorted(answer.outputs)]
    return np.concatenate([output.reshape(len(output), -1) for output in outputs], axis=1)


def wait_for(server: ServerProcess) -> None:
    """Wait until a server serves, or has ended."""
    eventually(lambda: server.serving or server.process.poll() is not None, "serving", START_SECONDS)
    if not server.serving:
        raise SystemExit(f"The server ended at its start:\n{server.log}")


def sample(server: ServerProcess, model: str, seconds: float) -> Sample:
    """Load one server for a while."""
    before = cpu_seconds(server.process.pid)
    rate = over_grpc(server.address, model, seconds)
    return rate, (cpu_seconds(server.process.pid) - before) * 1e3 / (rate * seconds)


def print_table(model: str, samples: Mapping[Contestant, list[Sample]], vectors: Mapping[Contestant, Array]) -> None:
    """Print medians, spreads, and the median ratio of each contestant to its baseline."""
    first_engine, first_precision = next(iter(samples))
    rounds = len(samples[first_engine, first_precision])
    print(f"{model}: {CLIENTS} clients of one image, {CORES} cores, {rounds} rounds in turns; median (least to most)")
    for (engine, precision), rows in samples.items():
        rates, costs = zip(*rows, strict=True)
        print(f"  {f'{engine}, {precision}':36}{spread(rates)} images/s{spread(costs)} ms of processor per image")
        other = (first_engine if precision == first_precision else engine, first_precision)
        if other == (engine, precision):
            continue
        pairs = list(zip(rows, samples[other], strict=True))
        print(
            f"  {'  ÷ ' + ', '.join(other):36}{spread([own[0] / base[0] for own, base in pairs])} by the clock"
            f"{spread([base[1] / own[1] for own, base in pairs])} by processor time, "
            f"cosine at least {worst_cosine(vectors[engine, precision], vectors[other]):.6f}"
        )


def worst_cosine(some: Array, others: Array) -> float:
    """Compare vectors one by one."""
    cosines = (some * others).sum(1) / (np.linalg.norm(some, axis=1) * np.linalg.norm(others, axis=1))
    return float(cosines.min())


def spread(values: Iterable[float]) -> str:
    """Write a median and a range, in a column."""
    return f" {cell(list(values)):>26}"


if __name__ == "__main__":
    main()
