"""Measure what a gateway and a model server take beside their work, and write docs/capacity.json.

One model server is many for a gateway that knows it by many addresses: each is polled and connected to by itself.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import httpx
import numpy as np

from bench.capacity.costs import MODEL, SURVEY, Survey
from bench.load.corpus import OUT, Corpus, make_corpus
from bench.load.generator import LoadGenerator
from bench.load.plan import Draw, Load, Outcome
from bench.processes.stack import running
from bench.processes.usage import Watch
from bench.ratios.measured import Effort
from bench.reporting.results import Result
from tests.e2e.processes import Gateway, ModelServer, Valkey, free_port

_ADDRESSES = (1, 64, 192)
_IDLE, _LOADED, _SETTLE = 12.0, 8.0, 6.0
"""Seconds of each measurement, and before the first."""
_CALLERS = 32
_RECIPE = f"""
models:
  - {{name: {MODEL}, backbone: MobileNetV2, weights: random, outputs: [{{name: top, layer: out_relu}}]}}
"""
_MONITORING = "prometheus_config { enable: true }"


class _MonitoredServer(ModelServer):
    """The embedded model server with its metrics."""

    def __init__(self, directory: Path, models: Path) -> None:
        super().__init__(directory, models)
        self.monitoring, self.rest = directory / "monitoring.config", free_port()
        self.monitoring.write_text(_MONITORING, encoding="utf-8")

    def words(self) -> list[str]:
        """Return the usual words and the options."""
        return [*super().words(), f"--monitoring_config_file={self.monitoring}", f"--rest_api_port={self.rest}"]


def measure(path: Path = SURVEY) -> None:
    """Measure all of it, in about four minutes."""
    corpus, models = make_corpus(), OUT / "capacity" / "models"
    recipe = OUT / "capacity" / "recipe.yaml"
    recipe.parent.mkdir(parents=True, exist_ok=True)
    recipe.write_text(_RECIPE, encoding="utf-8")
    subprocess.run([sys.executable, "-m", "exporter", "export", str(recipe), "--out", str(models)], check=True)
    with tempfile.TemporaryDirectory(prefix="microtome-") as directory, LoadGenerator() as generator:
        place = Path(directory)
        server, valkey = _MonitoredServer(place, models), Valkey(place)
        with running(valkey, server):
            rows = [_watched(place, server, valkey, generator, corpus, count) for count in _ADDRESSES]
            beside = _beside(place, server, valkey, generator, corpus)
    counts = [row["addresses"] for row in rows]
    # With few addresses calls are shared by several images; the choice is that of calls of one image each.
    few, many = rows[1:]
    found = Survey(
        gateway_watch=_slope(counts, [row["gateway idle"] for row in rows]),
        server_watch=_slope(counts, [row["model server idle"] for row in rows]),
        gateway_choice=max(0.0, (many["gateway an image"] - few["gateway an image"]) / (counts[2] - counts[1])),
        **beside,
    )
    about = Result.begin(corpus, Effort(1, _LOADED), complete=True).about
    told = {name: about[name] for name in ("commit", "date", "cores", "processor")}
    path.write_text(
        json.dumps({"about": told, "rows": rows, "found": asdict(found)}, indent=1) + "\n", encoding="utf-8"
    )
    print(f"written: {path}")


def _watched(  # noqa: PLR0913, PLR0917, the processes
    place: Path, server: ModelServer, valkey: Valkey, generator: LoadGenerator, corpus: Corpus, count: int
) -> dict[str, float]:
    """Return core seconds a second without load, and of the gateway for an image, with so many addresses."""
    with _gateway(place, server, valkey, count) as gateway:
        pids = {"gateway": gateway.pid, "model server": server.pid}
        time.sleep(_SETTLE)
        with Watch(pids) as idle:
            time.sleep(_IDLE)
        with Watch(pids) as loaded:
            outcome = _load(generator, gateway, corpus, "cold", _LOADED)
    watching = {name: seconds / _IDLE for name, seconds in idle.used.items()}
    an_image = (loaded.used["gateway"] - watching["gateway"] * outcome.seconds) / outcome.images
    row = {"addresses": float(count), **{f"{name} idle": spent for name, spent in watching.items()}}
    print(f"{count} addresses: {row}, {1e3 * an_image:.2f} ms an image, foreign {idle.foreign:.0%}", flush=True)
    return {**row, "gateway an image": an_image, "foreign": max(idle.foreign, 0.0)}


def _beside(
    place: Path, server: _MonitoredServer, valkey: Valkey, generator: LoadGenerator, corpus: Corpus
) -> dict[str, float]:
    """Return bytes and series of a gateway with one model server, for images whose vectors Redis has."""
    found: dict[str, float] = {}
    with _gateway(place, server, valkey, 1) as gateway, valkey.client() as client:
        _load(generator, gateway, corpus, "warm", 2.0)
        draws: dict[str, Draw] = {"redis_miss": "cold", "redis_hit": "warm"}
        for name, draw in draws.items():
            start = _bytes(client.info("stats"))
            images = _load(generator, gateway, corpus, draw, 3.0).images
            time.sleep(1.0)  # writes follow answers
            found[name] = (_bytes(client.info("stats")) - start) / images
        photo = Path(corpus.photos[0]).read_bytes()
        answer = httpx.post(f"{gateway.url}/embed", content=photo, trust_env=False).raise_for_status()
        head = sum(len(name) + len(value) + 4 for name, value in answer.headers.raw)
        found["answer"] = float(head + len(answer.content))
        found["gateway_series"] = _series(f"{gateway.url}/metrics")
    found["server_series"] = _series(f"http://127.0.0.1:{server.rest}/monitoring/prometheus/metrics")
    return found


@contextmanager
def _gateway(place: Path, server: ModelServer, valkey: Valkey, count: int) -> Iterator[Gateway]:
    """Run a gateway that knows the model server's socket by `count` names, with Redis as its only cache."""
    names = [place / f"{number}.s" for number in range(count)]
    for name in names:
        if not name.is_symlink():
            name.symlink_to(server.socket)
    addresses = ",".join(f"unix:{name}" for name in names)
    # As deploy/ ships it: the label is asked for at each poll.
    gateway = Gateway(place, addresses, MODEL, redis_url=valkey.url, cache_bytes=0, version_label="stable")
    with running(gateway):
        yield gateway


def _load(generator: LoadGenerator, gateway: Gateway, corpus: Corpus, draw: Draw, seconds: float) -> Outcome:
    return generator.put(Load(gateway.port, corpus.photos, seconds, connections=_CALLERS, draw=draw))


def _bytes(stats: Mapping[str, int]) -> float:
    return float(stats["total_net_input_bytes"] + stats["total_net_output_bytes"])


def _series(url: str) -> float:
    text = httpx.get(url, trust_env=False).raise_for_status().text
    return float(sum(1 for line in text.splitlines() if line and not line.startswith("#")))


def _slope(across: list[float], values: list[float]) -> float:
    return max(0.0, float(np.polyfit(across, values, 1)[0]))
