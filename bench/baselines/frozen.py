"""The exporter's SavedModel compared with that of Keras' own `model.export()`, in sessions of one thread.

python -m bench.baselines.frozen SAVED_MODEL BACKBONE PLAIN_DIRECTORY ROUNDS SECONDS: prints JSON, CPU seconds per image
of both in each round.
"""

import json
import sys
from functools import partial
from pathlib import Path

import numpy as np

from bench.baselines.cost import cpu_seconds_each
from bench.baselines.session import Session
from bench.reporting.comparison import interleaved

BATCH = 8
SIZE = 224


def main(frozen: str, backbone: str, plain: Path, rounds: int, seconds: float) -> None:
    """Measure and print."""
    if not plain.is_dir():
        export_plainly(backbone, plain)
    batch = np.random.default_rng(0).integers(0, 256, (BATCH, SIZE, SIZE, 3), dtype=np.uint8)
    runs = {
        name: partial(Session(path, threads=1).run, batch)
        for name, path in (("frozen", Path(frozen)), ("plain", plain))
    }
    for run in runs.values():
        cpu_seconds_each(run, 0.5)
    contestants = {name: partial(cpu_seconds_each, run, seconds, BATCH) for name, run in runs.items()}
    print(json.dumps({"rounds": interleaved(contestants, rounds)}))


def export_plainly(backbone: str, directory: Path) -> None:
    """Write the same network by `model.export()`, with scaling before and pooling after it."""
    import keras  # noqa: PLC0415, not needed when the directory is there

    scaling = {"MobileNetV2": (1 / 127.5, -1.0), "ResNet50": (1.0, -110.0)}[backbone]
    pixels = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    scaled = keras.layers.Rescaling(*scaling)(pixels)
    network = getattr(keras.applications, backbone)(weights=None, include_top=False, pooling="avg")
    keras.Model(pixels, network(scaled)).export(str(directory), format="tf_saved_model", verbose=False)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
