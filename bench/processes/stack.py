"""The service as a user starts it: real processes, default settings except for the cache tiers under test."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from bench.load.corpus import OUT, REPOSITORY, Corpus
from bench.load.generator import LoadGenerator
from bench.load.plan import Load, Outcome
from bench.processes.usage import Watch, descendants
from tests.e2e.processes import Gateway, ModelServer, Process, Valkey

MODELS = ("lite0", "mobilenet_v2", "resnet50")
START_SECONDS = 180.0


@dataclass(frozen=True, slots=True)
class Measured:
    """A load's outcome, and the CPU seconds of every process meanwhile."""

    outcome: Outcome
    cpu: dict[str, float]
    foreign: float

    @property
    def cpu_per_image(self) -> float:
        """CPU seconds of all server processes per image answered."""
        return sum(self.cpu.values()) / max(1, self.outcome.images)

    def cpu_of(self, name: str) -> float:
        """CPU seconds of one process per image answered."""
        return self.cpu[name] / max(1, self.outcome.images)


class Stack:
    """All processes, and the load generator.

    Attributes:
        gateway: With both cache tiers.
        far_gateway: With Redis alone, so that every hit is a Redis hit.
        corpus: What is sent.
    """

    def __init__(self, directory: Path, models: Path, corpus: Corpus) -> None:
        self.corpus = corpus
        self.directory = directory
        self.models = models
        self.valkey = Valkey(directory)
        self.model_server = ModelServer(directory, models)
        names = ",".join(MODELS)
        self.gateway = Gateway(directory, self.model_server.address, names, redis_url=self.valkey.url)
        self.far_gateway = Gateway(
            directory, self.model_server.address, names, redis_url=self.valkey.url, cache_bytes=0
        )
        self.generator = LoadGenerator()

    def processes(self) -> list[Process]:
        """In the order in which they are started."""
        return [self.valkey, self.model_server, self.gateway, self.far_gateway]

    @property
    def polling(self) -> list[int]:
        """Processes that work while idle, because they watch models."""
        return [process.pid for process in (self.gateway, self.far_gateway, self.model_server)]

    def manifest(self, model: str) -> dict[str, Any]:
        """Return a model's manifest."""
        manifest: dict[str, Any] = json.loads((self.saved_model(model) / "assets.extra" / "manifest.json").read_text())
        return manifest

    def saved_model(self, model: str) -> Path:
        """Return the newest version's directory."""
        return max((self.models / model).iterdir(), key=lambda path: int(path.name))

    def put(self, load: Load, gateway: Gateway | None = None) -> Measured:
        """Put a load on, and watch the processes that serve it."""
        pids = {
            "gateway": (gateway or self.gateway).pid,
            "model server": self.model_server.pid,
            "valkey": self.valkey.pid,
        }
        return watched(self.generator, load, pids)

    def load(self, seconds: float, **options: object) -> Load:
        """Describe a load on the gateway over the corpus' photos."""
        fields: dict[str, Any] = {
            "port": self.gateway.port,
            "images": self.corpus.photos,
            "seconds": seconds,
            **options,
        }
        return Load(**fields)


def watched(generator: LoadGenerator, load: Load, pids: dict[str, int]) -> Measured:
    """Put a load on a server, and watch some processes meanwhile."""
    with Watch(pids, [generator.pid]) as watch:
        outcome = generator.put(load)
    return Measured(outcome, watch.used, watch.foreign)


@contextmanager
def running_stack(corpus: Corpus) -> Iterator[Stack]:
    """Start everything, and end it in any case."""
    with tempfile.TemporaryDirectory(prefix="microtome-bench-") as directory, ExitStack() as ends:
        stack = Stack(Path(directory), export_models(), corpus)
        ends.callback(stack.generator.__exit__, None)
        for process in stack.processes():
            ends.callback(process.destroy)
            start(process)
        yield stack


def start(process: Process) -> None:
    """Start a process and wait until it serves, twice as long as tests do, since the machine may be busy.

    Raises:
        AssertionError: It ended, or does not serve.
    """
    process.launch()
    try:
        process.until_serving()
    except AssertionError:
        if not process.running:
            raise
        process.until_serving()


def export_models() -> Path:
    """Export bench/recipe.yaml; the exporter skips what exists."""
    models = OUT / "models"
    recipe = REPOSITORY / "bench" / "recipe.yaml"
    subprocess.run([sys.executable, "-m", "exporter", "export", str(recipe), "--out", str(models)], check=True)
    return models


@contextmanager
def listening(words: list[str], port: int, environment: dict[str, str] | None = None) -> Iterator[int]:
    """Run a program until it answers GET /readyz (anything at all) on a port; yields its process id.

    The last one's output is in bench/out/contestant.log.
    """
    with (
        (OUT / "contestant.log").open("wb") as log,
        subprocess.Popen(words, env=environment, stdout=log, stderr=log, start_new_session=True) as process,
    ):
        try:
            _await_answer(process, port)
            yield process.pid
        finally:
            # Descendants may have sessions of their own, and would go on using the machine.
            for pid in descendants(process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def _await_answer(process: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended at its start with {process.returncode}.")
        try:
            httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=2.0, trust_env=False)
        except httpx.HTTPError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(f"{process.args!r} does not answer on port {port} within {START_SECONDS:.0f} s.")
