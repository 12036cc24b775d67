"""P10: from fork to ready, and memory then; and an import of tensorflow-serving-api, which has no target."""

import subprocess
import sys
import time

from bench.processes.stack import Stack
from bench.processes.usage import resident_megabytes
from bench.ratios.measured import Effort
from bench.reporting.comparison import Comparison, interleaved
from tests.e2e.processes import Gateway

STUBS = "import tensorflow_serving.apis.predict_pb2"
"""What a client of TensorFlow Serving's official stubs needs."""

Sample = tuple[float, float]
"""Seconds from fork, and resident megabytes (VmRSS) then."""


def measure(stack: Stack, effort: Effort) -> list[Comparison]:
    """Start gateways over the running model server until they are ready, in turns with the import."""
    # The first round only warms the disk's cache.
    _, *rounds = interleaved({"gateway": lambda: start(stack), "stubs": import_stubs}, effort.rounds + 3)
    found = []
    for name, key, subject, targets in (
        ("gateway", "P10", "gateway, from fork to ready", (1.0, 100.0)),
        ("stubs", "P10 stubs", "an interpreter that imports tensorflow-serving-api", (None, None)),
    ):
        seconds, megabytes = ([row[name][part] for row in rounds] for part in (0, 1))
        what = f"{subject}: seconds", f"{subject}: resident memory"
        found += [
            Comparison(f"{key} start", what[0], targets[0], at_least=False, rounds=seconds, unit=" s"),
            Comparison(f"{key} memory", what[1], targets[1], at_least=False, rounds=megabytes, unit=" MB"),
        ]
    return found


def start(stack: Stack) -> Sample:
    """Start a gateway until it is ready."""
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


def import_stubs() -> Sample:
    """Import the official stubs in a new interpreter."""
    begin = time.perf_counter()
    words = [sys.executable, "-c", f"{STUBS}; print(flush=True); input()"]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "\n", f"could not run: {STUBS}"
        sample = time.perf_counter() - begin, resident_megabytes(process.pid)
        process.kill()
    return sample
