"""Decode and inference alone, by the engine that the model server would take: no HTTP, no gRPC, no queue.

One process per core, one thread each.

python -m bench.baselines.ideal SAVED_MODEL BATCH IMAGE... : reads seconds from standard input, a line each, and answers
with JSON: images done, seconds passed, CPU seconds of decoding and of inference.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.peers.pixels import decode
from modelserver.application import open_engines
from modelserver.config.options import Options
from modelserver.engines.engine import LoadedModel


def work(model: LoadedModel, spec: dict[str, Any], images: list[bytes], batch: int, seconds: float) -> dict[str, float]:
    """Embed images for a while."""
    signature = model.signatures["serving_default"]
    (taken,), given = signature.inputs.values(), [info.name for info in signature.outputs.values()]
    done, decoding, inference = 0, 0.0, 0.0
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds:
        started = time.process_time()
        stack = np.stack([decode(images[(done + number) % len(images)], spec) for number in range(batch)])
        decoded = time.process_time()
        model.run({taken.name: stack}, given)
        decoding += decoded - started
        inference += time.process_time() - decoded
        done += batch
    return {"images": done, "seconds": time.perf_counter() - begin, "decode": decoding, "inference": inference}


def main(saved_model: str, batch: int, paths: list[str]) -> None:
    """Serve until standard input ends."""
    manifest = json.loads((Path(saved_model) / "assets.extra" / "manifest.json").read_text())
    images = [Path(path).read_bytes() for path in paths]
    engines, _ = open_engines(Options(tensorflow_session_parallelism=1))
    model = engines[0].load(Path(saved_model))
    work(model, manifest["input"], images, batch, 0.5)
    for line in sys.stdin:
        print(json.dumps(work(model, manifest["input"], images, batch, float(line))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
