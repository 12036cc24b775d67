"""What an image costs: core seconds, GPU seconds, bytes; from a result of `make bench-full` and docs/capacity.json."""

import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from bench.load.corpus import REPOSITORY

GPU_RECORD = REPOSITORY / "docs" / "gpu.json"
"""Written by deploy/gpu/accept on a machine with a GPU."""
ASSUMED_RATES = (500.0, 2500.0)
"""Images a second of one GPU, as long as none has been measured: about twice what has been published of TensorFlow
Serving (270 of ResNet50 on a V100), and what a modern card should give with MobileNetV2."""
SURVEY = REPOSITORY / "docs" / "capacity.json"
"""Written by `python -m bench.capacity --measure`."""

MODEL, DIMENSIONS, SIDE = "mobilenet_v2", 1280, 224
"""The model that clusters are sized for, the numbers of its vector, and the side of the images that it takes."""
ENTRY_OVERHEAD = 225
"""Bytes of an entry without its numbers: key, checksum, object, slot, expiry. Measured on Valkey 9.1 as the growth
of used_memory over 5,000 entries of 512 to 2,048 numbers: 220 to 236."""
_COMMANDS_OF_A_MISS = 5
"""MGET; SET NX of the claim, MGET; SET of the vector, SET that ends the claim. A hit is one MGET."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of one core unless stated.

    Attributes:
        hit: Of a gateway's event loop, for a vector that Redis has.
        redis: Of Redis, for a hit.
        miss: Of a gateway, for an image that has to be decoded: event loop and decode threads.
        inference: Of a model server, for one image in a batch.
        decode: The part of `miss` that decode threads spend, beside the event loop.
        redis_miss: Of Redis, for a miss.
        memory_hit: Of a gateway's event loop, for an answer that its own memory has.
        caller: Of the load generator, for an image.
        gpu: Of a GPU, for one image in a batch.
        photo: Bytes of an encoded image.
    """

    hit: float
    redis: float
    miss: float
    inference: float
    decode: float = 0.0
    redis_miss: float = 0.0
    memory_hit: float = 0.0
    caller: float = 0.0
    gpu: float = 1 / ASSUMED_RATES[0]
    photo: float = 42_000.0

    @classmethod
    def measured(cls, result: Mapping[str, Any], model: str = MODEL) -> Self:
        """Read them from a result of `make bench-full`.

        Raises:
            SystemExit: The result lacks what is needed.
        """
        found = facts(result)
        if missing := {"P1", "P2", f"P4 {model}"} - set(found):
            raise SystemExit(
                f"Expected the costs of hits and misses in the result. Received none of {', '.join(sorted(missing))}: "
                "run `make bench-full`, or name a result that has them."
            )
        hits, served = found["P2"], found[f"P4 {model}"]
        # Results until November 2026 have no "Valkey CPU ms" of misses.
        redis_miss = served.get("Valkey CPU ms", _COMMANDS_OF_A_MISS * hits["Valkey CPU ms"])
        return cls(
            hit=hits["gateway CPU ms"] / 1e3,
            redis=hits["Valkey CPU ms"] / 1e3,
            miss=served["gateway CPU ms"] / 1e3,
            inference=served["model server CPU ms"] / 1e3,
            decode=served["ideal decode CPU ms"] / 1e3,
            redis_miss=redis_miss / 1e3,
            memory_hit=found["P1"]["gateway CPU ms"] / 1e3,
            caller=hits.get("load generator, part of a core", 0.0) / hits["images/s"],
            photo=float(result["about"]["photo_bytes"]),
        )

    def gateway(self, hit_rate: float) -> float:
        """Return the core seconds of gateways for an image."""
        return hit_rate * self.hit + (1 - hit_rate) * self.miss

    def loop(self, hit_rate: float) -> float:
        """Return those of them that a gateway's event loop spends, which has one core however many there are."""
        return hit_rate * self.hit + (1 - hit_rate) * (self.miss - self.decode)

    def valkey(self, hit_rate: float) -> float:
        """Return the core seconds of Redis for an image."""
        return hit_rate * self.redis + (1 - hit_rate) * self.redis_miss


@dataclass(frozen=True, slots=True)
class Inference:
    """Milliseconds of one core for an image of a model, in a precision, by an engine."""

    model: str
    precision: str
    engine: str
    milliseconds: float


_DEFAULT = "the default"
_ROWS = (
    ("P3 32", "EfficientNet-Lite0", "float32", _DEFAULT, "model server CPU ms"),
    ("P4 mobilenet_v2", "MobileNetV2", "float32", _DEFAULT, "model server CPU ms"),
    ("P4 resnet50", "ResNet50", "float32", _DEFAULT, "model server CPU ms"),
    ("P9", "ResNet50", "float32", "TensorFlow", "model server CPU ms, float32"),
    ("P9", "ResNet50", "bfloat16", "TensorFlow", "model server CPU ms, bfloat16"),
    ("P9 OpenVINO", "ResNet50", "float32", "OpenVINO", "model server CPU ms, float32"),
    ("P9 OpenVINO", "ResNet50", "bfloat16", "OpenVINO", "model server CPU ms, bfloat16"),
)
"""Where a result has them: row, model, precision, engine, fact. Ours, bfloat16, has lost its ending since."""


def inferences(result: Mapping[str, Any]) -> list[Inference]:
    """Return what each model costs in each precision that was measured."""
    found, costs = facts(result), []
    for key, model, precision, engine, name in _ROWS:
        row = found.get(key, {})
        value = row.get(name, row.get(name.removesuffix(", bfloat16")))
        if value is not None:
            costs.append(Inference(model, precision, engine, value))
    return costs


def facts(result: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return the medians of the numbers behind each row that was measured; `images/s` by this name in any result."""
    rows = {}
    for each in result["comparisons"]:
        row = {name: float(statistics.median(values)) for name, values in each["facts"].items() if values}
        if "requests/s" in row:
            row.setdefault("images/s", row["requests/s"])
        if row:
            rows[each["key"]] = row
    return rows


@dataclass(frozen=True, slots=True)
class Survey:
    """What `--measure` found of one gateway and one model server beside their work.

    Attributes:
        answer: Bytes of an answer as JSON, head included.
        redis_hit: Bytes between a gateway and Redis for a hit, both ways.
        redis_miss: The same for a miss.
        gateway_series: Of Prometheus, for one gateway.
        server_series: Of Prometheus, for one model server.
        gateway_watch: Core seconds a second of a gateway for each model server that it watches.
        gateway_choice: Core seconds of a gateway for each model server that it chooses among, for each call.
        server_watch: Core seconds a second of a model server for each gateway that watches it.
    """

    answer: float
    redis_hit: float
    redis_miss: float
    gateway_series: float
    server_series: float
    gateway_watch: float
    gateway_choice: float
    server_watch: float

    @classmethod
    def read(cls, path: Path = SURVEY) -> Self:
        """Read docs/capacity.json.

        Raises:
            SystemExit: It is not there.
        """
        if not path.is_file():
            raise SystemExit(f"Expected {path}. Received none: run `python -m bench.capacity --measure`.")
        return cls(**json.loads(path.read_text(encoding="utf-8"))["found"])


def traffic(costs: Costs, survey: Survey, hit_rate: float) -> dict[str, float]:
    """Return the bytes that an image sends over each way, heads of TCP and TLS left out."""
    missed = 1 - hit_rate
    return {
        "callers and gateways": costs.photo + survey.answer,
        "gateways and model servers": missed * (3 * SIDE * SIDE + 4 * DIMENSIONS),
        "gateways and Redis": hit_rate * survey.redis_hit + missed * survey.redis_miss,
    }


def redis_bytes(vectors: float, dimensions: int, bytes_per_number: int = 4) -> float:
    """Return the memory of vectors in Redis, in bytes."""
    return vectors * (dimensions * bytes_per_number + ENTRY_OVERHEAD)


def gpu_rates(record: Path = GPU_RECORD) -> dict[str, float]:
    """Return images a second of one GPU at its best batch size, by where the figure comes from.

    Raises:
        SystemExit: The record is of no GPU, or not one of deploy/gpu/accept.
    """
    if not record.is_file():
        return {f"assumed {rate:,.0f}/s": rate for rate in ASSUMED_RATES}
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
        gpu, best = str(found["gpu"]["name"]), max(float(rate) for rate in found["images/s"].values())
    except (KeyError, TypeError, ValueError) as error:
        raise SystemExit(
            f"Expected the record of deploy/gpu/accept in {record}, with gpu and images/s. Received: {error!r}."
        ) from error
    return {f"{gpu}, {found['model']}: {best:,.0f}/s": best}
