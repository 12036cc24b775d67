"""The service as a user starts it: real processes, default settings except for the cache tiers under test."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from bench.load.corpus import OUT, REPOSITORY, Corpus
from bench.load.generator import LoadGenerator
from bench.load.plan import Load
from bench.processes.usage import Watch, descendants
from bench.ratios.measured import Measured
from tests.e2e.processes import Gateway, ModelServer, Process, Valkey

MODELS = ("lite0", "lite0_fast", "mobilenet_v2", "resnet50")
CONNECTIONS = 32
"""Callers of a load of misses, enough for full batches."""


class Program(Process):
    """Another contestant; it serves when it answers GET /readyz with anything at all.

    Args:
        words: Its command line.
        port: Its port on 127.0.0.1.
        variables: Added to the environment.
    """

    name = "contestant"

    def __init__(self, words: list[str], port: int, variables: Mapping[str, str] | None = None) -> None:
        super().__init__(OUT)
        self._words, self.port, self._variables = words, port, variables or {}
        self.log.unlink(missing_ok=True)

    def words(self) -> list[str]:
        """The command line."""
        return self._words

    def environment(self) -> Mapping[str, str]:
        """The variables."""
        return self._variables

    def serving(self) -> bool:
        """Whether it answers."""
        try:
            httpx.get(f"http://127.0.0.1:{self.port}/readyz", timeout=2.0, trust_env=False)
        except httpx.HTTPError:
            return False
        return True

    def destroy(self) -> None:
        """End it with all descendants, which may have sessions of their own."""
        for pid in descendants(self.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        super().destroy()


class TunedModelServer(ModelServer):
    """The embedded model server with further options."""

    def __init__(self, directory: Path, models: Path, *options: str) -> None:
        super().__init__(directory, models)
        self._options = options

    def words(self) -> list[str]:
        """Return the usual words and the options."""
        return [*super().words(), *self._options]


@dataclass(frozen=True, slots=True)
class Served:
    """A gateway and its model server."""

    gateway: Gateway
    model_server: ModelServer


class Stack:
    """All processes, and the load generator.

    Attributes:
        near: A gateway with both cache tiers.
        far: One with Redis alone, so that every hit is a Redis hit.
        corpus: What is sent.
    """

    def __init__(self, directory: Path, models: Path, corpus: Corpus) -> None:
        self.corpus, self.directory, self.models = corpus, directory, models
        self.valkey = Valkey(directory)
        server = ModelServer(directory, models)
        options: dict[str, Any] = {"models": ",".join(MODELS), "redis_url": self.valkey.url}
        self.near = Served(Gateway(directory, server.address, **options), server)
        self.far = Served(Gateway(directory, server.address, cache_bytes=0, **options), server)
        self.generator = LoadGenerator()

    @property
    def processes(self) -> tuple[Process, ...]:
        """In the order in which they are started."""
        return self.valkey, self.near.model_server, self.near.gateway, self.far.gateway

    @property
    def polling(self) -> list[int]:
        """Processes that work while idle, because they watch models."""
        return [process.pid for process in self.processes[1:]]

    def manifest(self, model: str) -> dict[str, Any]:
        """Return a model's manifest."""
        manifest: dict[str, Any] = json.loads((self.saved_model(model) / "assets.extra" / "manifest.json").read_text())
        return manifest

    def saved_model(self, model: str) -> Path:
        """Return the newest version's directory."""
        return max((self.models / model).iterdir(), key=lambda path: int(path.name))

    def put(self, seconds: float, served: Served | None = None, **options: object) -> Measured:
        """Put a load of the corpus' photos on a gateway, the near one by default; options are those of `Load`."""
        served = served or self.near
        pids = {"gateway": served.gateway.pid, "model server": served.model_server.pid, "Valkey": self.valkey.pid}
        return self.watched(pids, seconds, **{"port": served.gateway.port, **options})

    def cold(self, seconds: float, model: str, served: Served | None = None, **options: object) -> Measured:
        """Put a load of images on that are not in the cache."""
        return self.put(
            seconds, served, **{"path": f"/embed?model={model}", "draw": "cold", "connections": CONNECTIONS, **options}
        )

    def load(self, seconds: float, **options: object) -> Load:
        """Describe a load of the corpus' photos, on the near gateway unless a port is given."""
        fields: dict[str, Any] = {"images": self.corpus.photos, "port": self.near.gateway.port, **options}
        return Load(seconds=seconds, **fields)

    def watched(self, pids: dict[str, int], seconds: float, **options: object) -> Measured:
        """Put a load on any server, and watch its processes meanwhile."""
        with Watch(pids, [self.generator.pid]) as watch:
            outcome = self.generator.put(self.load(seconds, **options))
        return Measured(outcome, watch.used, watch.foreign)

    @contextmanager
    def serving(self, model: str, *options: str) -> Iterator[Served]:
        """Run a gateway over one model in a model server with options of its own, such as another engine.

        Raises:
            AssertionError: One did not start; the end of its log is in the message.
        """
        directory = self.directory / "-".join(["served", model, *(option.partition("=")[2] for option in options)])
        models = directory / "models"
        models.mkdir(parents=True, exist_ok=True)
        if not (models / model).exists():
            (models / model).symlink_to((self.models / model).resolve())
        server = TunedModelServer(directory, models, *options)
        served = Served(Gateway(directory, server.address, model, redis_url=self.valkey.url), server)
        with running(served.model_server, served.gateway):
            yield served


@contextmanager
def running(*processes: Process) -> Iterator[None]:
    """Start processes one after the other, and end all in any case.

    Each has twice the time that tests give it, since the machine may be busy.

    Raises:
        AssertionError: One ended, or does not serve.
    """
    with ExitStack() as ends:
        for process in processes:
            process.launch()
            ends.callback(process.destroy)
            try:
                process.until_serving()
            except AssertionError:
                if not process.running:
                    raise
                process.until_serving()
        yield


@contextmanager
def running_stack(corpus: Corpus) -> Iterator[Stack]:
    """Export bench/recipe.yaml, where the exporter skips what exists, and run everything over it."""
    models, recipe = OUT / "models", REPOSITORY / "bench" / "recipe.yaml"
    subprocess.run([sys.executable, "-m", "exporter", "export", str(recipe), "--out", str(models)], check=True)
    with tempfile.TemporaryDirectory(prefix="microtome-bench-") as directory:
        stack = Stack(Path(directory), models, corpus)
        with stack.generator, running(*stack.processes):
            yield stack
