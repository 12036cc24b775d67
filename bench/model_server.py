"""The model server compared with the same SavedModel without it, or its engines and precisions with each other.

    python bench/model_server.py --models DIR [--model NAME ...] [--engine NAME ...] [--precision float32 bfloat16]
                                 [--rounds 3] [--seconds 5]
    python bench/model_server.py --models DIR --start [--model NAME ...] [--engine NAME ...] [--rounds 3]

32 clients ask for one image each over gRPC, in threads of this process, on the same cores. With one engine and one
precision, the default, the server is compared with the best of a bare session in this process, at every batch size,
with one and with two callers. Otherwise each engine in each precision is a server of its own, and all are compared with
the first. With --start: how long each takes until it listens, by the clock and of processor time, and its resident
memory then and after a load. Contestants run in turns. Processor time for each image, without that of the clients, says
more than the clock on a busy machine.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from bench.load.calling import calling  # noqa: E402
from bench.processes.usage import cpu_seconds, resident_megabytes  # noqa: E402
from bench.reporting.comparison import cell, interleaved  # noqa: E402
from modelserver.engines.parallelism import SessionSettings  # noqa: E402
from modelserver.engines.tensorflow_engine import TensorFlowEngine, TensorFlowModel  # noqa: E402
from tests.contract.tfserving.requests import images, predict  # noqa: E402
from tests.contract.tfserving.server_process import Client, ServerProcess, eventually  # noqa: E402

CLIENTS = 32
SIDE = 224
BATCH_SIZES = (1, 4, 8, 16, 32)
START_SECONDS = 600.0
ENGINES = {
    "tensorflow": ("--engine=tensorflow",),
    "auto": ("--engine=auto",),
    "openvino": ("--engine=openvino",),
    "openvino, one at a time": ("--engine=openvino", "--tensorflow_inter_op_parallelism=1"),
}
PRECISIONS = {"float32": "--mixed_precision=", "bfloat16": "--mixed_precision=bfloat16"}

Sample = tuple[float, float]
"""Images per second, and processor milliseconds per image."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True, help="a directory, as `microtome export` writes it")
    parser.add_argument("--model", action="append", help="models of it to measure (all)")
    parser.add_argument("--engine", action="append", choices=ENGINES, help="may be given again (tensorflow)")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["float32"], help="(float32)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each contestant runs (3)")
    parser.add_argument("--seconds", type=float, default=5.0, help="for how long each time (5)")
    parser.add_argument("--start", action="store_true", help="measure starts and memory instead")
    options = parser.parse_args()
    for model in options.model or sorted(path.name for path in options.models.iterdir() if path.is_dir()):
        if options.start:
            starts(options.models / model, options.engine or ["auto", "tensorflow"], options.rounds, options.seconds)
            continue
        with tempfile.TemporaryDirectory(prefix="bench") as place, ExitStack() as ends:
            contestants: dict[str, Callable[[], Sample]] = {}
            for precision in options.precision:
                for engine in options.engine or ["tensorflow"]:
                    flags = (*ENGINES[engine], PRECISIONS[precision])
                    directory = Path(place) / str(len(contestants))
                    contestants[f"{engine}, {precision}"] = serve(
                        ends, directory, options.models / model, options.seconds, *flags
                    )
            if len(contestants) == 1:
                loaded = TensorFlowEngine(SessionSettings()).load(newest(options.models / model))
                for size in BATCH_SIZES:
                    for callers in (1, 2):
                        contestants[f"in process, batch {size}, callers {callers}"] = partial(
                            in_process, loaded, size, callers, options.seconds / 2
                        )
            report(model, interleaved(contestants, options.rounds))


def starts(model: Path, engines: Sequence[str], rounds: int, seconds: float) -> None:
    """Start a server of each engine in turns, load it for a while, and print what that takes."""
    found: dict[str, list[tuple[float, ...]]] = {engine: [] for engine in engines}
    for engine in [engine for _ in range(rounds) for engine in engines]:
        with tempfile.TemporaryDirectory(prefix="bench") as place, ExitStack() as ends:
            began = time.perf_counter()
            server, load = serving(ends, Path(place), model, seconds, *ENGINES[engine])
            pid = server.process.pid
            start = (time.perf_counter() - began, cpu_seconds(pid), resident_megabytes(pid))
            load()()
            found[engine].append((*start, resident_megabytes(pid)))
    print(f"{model.name}: {rounds} starts in turns; median (least to most)")
    words = ("s until it listens", "s of processor time", "MB resident", "MB after a load")
    for engine, values in found.items():
        told = [f"{cell(list(each))} {word}" for each, word in zip(zip(*values, strict=True), words, strict=True)]
        print(f"  {engine}: {', '.join(told)}")


def serve(ends: ExitStack, directory: Path, model: Path, seconds: float, *flags: str) -> Callable[[], Sample]:
    """Start a server and warm it up; return a function that loads it for a while."""
    return serving(ends, directory, model, seconds, *flags)[1]()


def serving(
    ends: ExitStack, directory: Path, model: Path, seconds: float, *flags: str
) -> tuple[ServerProcess, Callable[[], Callable[[], Sample]]]:
    """Start a server; return it, and what warms it up and returns a function that loads it for a while."""
    common = (f"--model_base_path={model.resolve()}", f"--model_name={model.name}", "--enable_batching",
              "--enable_serialization_as_tensor_content")  # fmt: skip
    server = ends.enter_context(ServerProcess(directory, *common, *flags))
    eventually(lambda: server.serving or server.process.poll() is not None, "serving", START_SECONDS)
    if not server.serving:
        raise SystemExit(f"The server ended at its start:\n{server.log}")

    def load() -> Callable[[], Sample]:
        request = predict(model.name, inputs={"images": images(1, side=SIDE)})
        clients = [ends.enter_context(Client(server.address)) for _ in range(CLIENTS)]
        calls = [partial(client.predict, request, START_SECONDS) for client in clients]
        measured(calls, 1, 2.0, lambda: 0.0)
        return lambda: measured(calls, 1, seconds, lambda: cpu_seconds(server.process.pid))

    return server, load


def in_process(loaded: TensorFlowModel, size: int, callers: int, seconds: float) -> Sample:
    """Run batches in the bare session."""
    signature = loaded.signatures["serving_default"]
    feeds = {signature.inputs["images"].name: images(size, side=SIDE)}
    run = partial(loaded.run, feeds, [info.name for info in signature.outputs.values()])
    run()
    return measured([run] * callers, size, seconds, time.process_time)


def measured(
    calls: Sequence[Callable[[], object]], size: int, seconds: float, processor: Callable[[], float]
) -> Sample:
    """Repeat calls, of `size` images each, for a while."""
    began, spent = time.perf_counter(), processor()
    with calling(calls) as done:
        time.sleep(seconds)
    count = len(done) * size
    return count / (time.perf_counter() - began), 1e3 * (processor() - spent) / count


def newest(model: Path) -> Path:
    """Return the highest version of a model."""
    return max((path for path in model.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))


def report(model: str, rounds: list[dict[str, Sample]]) -> None:
    """Print medians and spreads, and the ratios to the first contestant; those in process count by the best."""
    print(f"{model}: {CLIENTS} clients of one image, {len(rounds)} rounds in turns; median (least to most)")
    for name in rounds[0]:
        rates, costs = ([row[name][part] for row in rounds] for part in (0, 1))
        print(f"  {name}: {cell(rates, digits=1)} images/s, {cell(costs)} ms of processor time each")
    first, *others = rounds[0]
    if any(name.startswith("in process") for name in others):
        best = max(others, key=lambda name: statistics.median(row[name][0] for row in rounds))
        pairs = [(first, best)]
    else:
        pairs = [(name, first) for name in others]
    for one, other in pairs:
        clock = cell([row[one][0] / row[other][0] for row in rounds])
        processor = cell([row[other][1] / row[one][1] for row in rounds])
        print(f"  {one} ÷ {other}: {clock} by the clock, {processor} by processor time")


if __name__ == "__main__":
    main()
