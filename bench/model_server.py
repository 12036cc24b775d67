"""The model server compared with the same SavedModel without it.

    python bench/model_server.py --models DIR [--model NAME ...] [--rounds 3] [--seconds 5]

Compares images per second: 32 clients of one image each over gRPC, in a process of their own on the same cores, and
the SavedModel in a bare session in this process, at every batch size, with one and with two callers. Rounds are
interleaved so that a busy machine slows all alike; the best combination in-process counts. Processor time for each
image, without that of the clients, says more than the clock on a busy machine.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


from bench.processes.usage import cpu_seconds  # noqa: E402
from bench.reporting.comparison import cell  # noqa: E402
from modelserver.engines.tensorflow_engine import SessionSettings, TensorFlowEngine, TensorFlowModel  # noqa: E402
from tests.contract.tfserving.requests import images, predict  # noqa: E402
from tests.contract.tfserving.server_process import Client, ServerProcess  # noqa: E402

CLIENTS = 32
SIDE = 224
BATCH_SIZES = (1, 4, 8, 16, 32)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models", type=Path, required=True, help="a models directory, as `microtome export` writes it"
    )
    parser.add_argument("--model", action="append", help="models of it to measure (all)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each contestant runs (3)")
    parser.add_argument("--seconds", type=float, default=5.0, help="for how long each time (5)")
    parser.add_argument("--load", nargs=3, metavar=("ADDRESS", "MODEL", "SECONDS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        address, model, seconds = options.load
        print(closed_loop(lambda: caller(address, model), CLIENTS, float(seconds)))
        return
    for model in options.model or sorted(path.name for path in options.models.iterdir() if path.is_dir()):
        throughput(options.models, model, options.rounds, options.seconds)


def throughput(models: Path, model: str, rounds: int, seconds: float) -> None:
    """Compare the server with the bare session."""
    loaded = TensorFlowEngine(SessionSettings()).load(newest(models / model))
    found: dict[str, list[float]] = defaultdict(list)
    cost: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="bench") as directory:
        (Path(directory) / "models").mkdir()
        (Path(directory) / "models" / model).symlink_to((models / model).resolve())
        flags = (f"--models_dir={directory}/models", "--enable_batching", "--enable_serialization_as_tensor_content")
        with ServerProcess(Path(directory) / "server", *flags) as server:
            server.ready()
            over_grpc(server.address, model, 2.0)
            for _ in range(rounds):
                began = cpu_seconds(server.process.pid)
                rate = over_grpc(server.address, model, seconds)
                found["server"].append(rate)
                cost["server"].append((cpu_seconds(server.process.pid) - began) / (rate * seconds))
                for size in BATCH_SIZES:
                    for callers in (1, 2):
                        name, began = f"in-process, batch {size}, callers {callers}", time.process_time()
                        rate = closed_loop(partial(in_process, loaded, size), callers, seconds / 2) * size
                        found[name].append(rate)
                        cost[name].append((time.process_time() - began) / (rate * seconds / 2))
    rates = {name: statistics.median(values) for name, values in found.items()}
    best = max((name for name in rates if name != "server"), key=rates.__getitem__)
    print(f"{model}: {CLIENTS} clients of one image, {rounds} rounds interleaved, medians of images/s")
    costs = {name: statistics.median(values) * 1e3 for name, values in cost.items()}
    for name, each in found.items():
        print(f"  {name}: {cell(each, digits=1)}, {costs[name]:.2f} ms of processor time each")
    print(f"  server / best in-process ({best}): {rates['server'] / rates[best]:.2f}")
    print(f"  processor time, the same: {costs['server'] / costs[best]:.2f}")


def over_grpc(address: str, model: str, seconds: float) -> float:
    """Load the server from another process; returns images per second."""
    words = [sys.executable, __file__, "--models=.", "--load", address, model, str(seconds)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return float(subprocess.run(words, check=True, capture_output=True, text=True, env=environment).stdout)


def caller(address: str, model: str) -> Callable[[], object]:
    """Return a function that asks the server for one image."""
    client = Client(address)
    request = predict(model, inputs={"images": images(1, side=SIDE)})
    return lambda: client.predict(request, 60)


def in_process(loaded: TensorFlowModel, size: int) -> Callable[[], object]:
    """Return a function that runs one batch in the bare session."""
    signature = loaded.signatures["serving_default"]
    feeds = {signature.inputs["images"].name: images(size, side=SIDE)}
    fetches = [info.name for info in signature.outputs.values()]
    loaded.run(feeds, fetches)
    return lambda: loaded.run(feeds, fetches)


def closed_loop(make: Callable[[], Callable[[], object]], callers: int, seconds: float) -> float:
    """Call from several threads, each again as soon as it has its answer; returns calls per second."""
    calls = [make() for _ in range(callers)]
    start = threading.Barrier(callers + 1)
    deadline = [0.0]

    def run(call: Callable[[], object]) -> int:
        start.wait()
        count = 0
        while time.perf_counter() < deadline[0]:
            call()
            count += 1
        return count

    with ThreadPoolExecutor(callers) as threads:
        counts = [threads.submit(run, call) for call in calls]
        began = time.perf_counter()
        deadline[0] = began + seconds
        start.wait()
        total = sum(count.result() for count in counts)
        return total / (time.perf_counter() - began)


def newest(model: Path) -> Path:
    """Return the highest version of a model."""
    return max((path for path in model.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))


if __name__ == "__main__":
    main()
