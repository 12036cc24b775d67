"""Costs of an image in core seconds, and of a vector in bytes."""

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from bench.load.corpus import REPOSITORY

GPU_RECORD = REPOSITORY / "docs" / "gpu.json"
"""Written by deploy/gpu/accept on a machine with a GPU."""
ASSUMED_RATES = (500.0, 2500.0)
"""Images a second of one GPU, as long as none has been measured: about twice what has been published of TensorFlow
Serving (270 of ResNet50 on a V100), and what a modern card should give with MobileNetV2."""

ENTRY_OVERHEAD = 225
"""Bytes of an entry without its numbers: key, checksum, object, slot, expiry. Measured on Valkey 9.1 as the growth
of used_memory over 5,000 entries of 512 to 2,048 numbers: 220 to 236."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of one core unless stated.

    Attributes:
        hit: Of the gateway, for a vector that Redis has.
        redis: Of Redis, for a lookup.
        miss: Of the gateway, for an image that has to be decoded.
        inference: Of the model server, for one image in a batch.
        gpu: Of a GPU, for one image in a batch.
    """

    hit: float
    redis: float
    miss: float
    inference: float
    gpu: float = 1 / ASSUMED_RATES[0]

    @classmethod
    def measured(cls, path: Path, model: str = "mobilenet_v2") -> Self:
        """Read them from a result of `make bench`.

        Raises:
            SystemExit: The result lacks what is needed.
        """
        found = {each["key"]: each["facts"] for each in json.loads(path.read_text())["comparisons"]}
        if missing := {"P2", f"P4 {model}"} - set(found):
            raise SystemExit(
                f"Expected the costs of hits and misses in {path}. Received none of {', '.join(sorted(missing))}: "
                "run `make bench-full`, or name a result that has them."
            )
        served = found[f"P4 {model}"]

        def median(facts: dict[str, Any], name: str) -> float:
            return float(statistics.median(facts[name])) / 1e3

        return cls(
            hit=median(found["P2"], "gateway CPU ms"),
            redis=median(found["P2"], "Valkey CPU ms"),
            miss=median(served, "gateway CPU ms"),
            inference=median(served, "model server CPU ms"),
        )


def redis_bytes(vectors: int, dimensions: int, bytes_per_number: int) -> int:
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
