"""Seconds and memory until a process is ready: the gateway compared with an import of tensorflow-serving-api.

    python bench/startup.py [--runs 10] [--models DIR]

Each round runs all contestants one after the other, in rotating order, so that a busy machine slows all alike:

* gateway: `python -m service` until GET /livez answers 200; with --models until /readyz does, over a model server
* tensorflow-serving-api: `import tensorflow_serving.apis.predict_pb2`, which a client of the official stubs needs
* python: an interpreter that does nothing, as the floor

Seconds are wall-clock from fork; memory is what the process has resident at that moment (VmRSS).
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY))

from bench.processes.usage import resident_megabytes  # noqa: E402
from bench.reporting.comparison import cell, interleaved  # noqa: E402
from tests.e2e.processes import Gateway, ModelServer  # noqa: E402

IMPORTERS = {
    "tensorflow-serving-api": "import tensorflow_serving.apis.predict_pb2",
    "python": "pass",
}
WAIT = "; import sys; sys.stdout.write('x'); sys.stdout.flush(); sys.stdin.read()"

Sample = tuple[float, float]
"""Seconds and megabytes."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10, help="rounds (10)")
    parser.add_argument("--models", type=Path, help="a models directory with lite0 in it: wait for readiness")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="microtome-bench-") as directory, model_server(options.models) as address:
        contestants: dict[str, Callable[[], Sample]] = {"gateway": lambda: run_gateway(Path(directory), address)}
        contestants |= {name: partial(run_import, program) for name, program in IMPORTERS.items()}
        samples = measure(contestants, options.runs)
    print_table(samples, "/readyz" if options.models else "/livez")


def measure(contestants: dict[str, Callable[[], Sample]], runs: int) -> dict[str, list[Sample]]:
    """Run all contestants in rotating order; the first round only warms the disk's cache."""
    _, *rounds = interleaved(contestants, runs + 1)
    return {name: [row[name] for row in rounds] for name in contestants}


@contextmanager
def model_server(models: Path | None) -> Iterator[str | None]:
    """Run a model server over a directory, if there is one, and yield its address."""
    if models is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="microtome-bench-") as directory:
        server = ModelServer(Path(directory), models.resolve())
        server.start()
        try:
            yield server.address
        finally:
            server.destroy()


def run_gateway(directory: Path, address: str | None) -> Sample:
    """Start a gateway until it answers, or is ready when there is a model server to be ready for."""
    gateway = Gateway(directory, address or f"unix:{directory}/none.sock", log_level="error")
    begin = time.perf_counter()
    gateway.launch()
    answered = gateway.serving if address else gateway.alive
    try:
        while not answered():
            time.sleep(0.005)
        return time.perf_counter() - begin, resident_megabytes(gateway.pid)
    finally:
        gateway.terminate()


def run_import(program: str) -> Sample:
    """Run a program in a new interpreter to its end."""
    begin = time.perf_counter()
    words = [sys.executable, "-c", program + WAIT]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        if process.stdout is None or process.stdout.read(1) != b"x":
            raise SystemExit(f"could not run: {program}")
        sample = time.perf_counter() - begin, resident_megabytes(process.pid)
        process.kill()
    return sample


def print_table(samples: dict[str, list[Sample]], path: str) -> None:
    """Print medians and the spread from the least to the most."""
    runs = len(next(iter(samples.values())))
    print(f"{runs} runs each, interleaved; median (least to most); gateway until GET {path} answers 200")
    print(f"{'':24}{'seconds':>28}{'resident MB':>28}")
    for name, rows in samples.items():
        seconds, megabytes = (cell(list(column)) for column in zip(*rows, strict=True))
        print(f"{name:24}{seconds:>28}{megabytes:>28}")


if __name__ == "__main__":
    main()
