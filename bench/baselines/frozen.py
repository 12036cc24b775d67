"""The exporter's SavedModel compared with that of Keras' own `model.export()`, in sessions of one thread.

python -m bench.baselines.frozen SAVED_MODEL BACKBONE PLAIN_DIRECTORY ROUNDS SECONDS: prints JSON, CPU seconds per image
of both in each round.
"""

import json
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np

from bench.baselines.session import Session
from bench.reporting.comparison import interleaved

BATCH = 8
SIZE = 224


def main(frozen: str, backbone: str, plain: Path, rounds: int, seconds: float) -> None:
    """Measure and print."""
    if not plain.is_dir():
        export_plainly(backbone, plain)
    sessions = {"frozen": Session(Path(frozen), threads=1), "plain": Session(plain, threads=1)}
    for session in sessions.values():
        seconds_per_image(session, 0.5)
    contestants = {name: partial(seconds_per_image, session, seconds) for name, session in sessions.items()}
    print(json.dumps(interleaved(contestants, rounds)))


def export_plainly(backbone: str, directory: Path) -> None:
    """Write the same network by `model.export()`, with scaling before and pooling after it."""
    import keras  # noqa: PLC0415, not needed when the directory is there

    scaling = {"MobileNetV2": (1 / 127.5, -1.0), "ResNet50": (1.0, -110.0)}[backbone]
    pixels = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    scaled = keras.layers.Rescaling(*scaling)(pixels)
    network = getattr(keras.applications, backbone)(weights=None, include_top=False, pooling="avg")
    keras.Model(pixels, network(scaled)).export(str(directory), format="tf_saved_model", verbose=False)


def seconds_per_image(session: Session, seconds: float) -> float:
    """Return the CPU seconds of one image in batches."""
    batch = np.random.default_rng(0).integers(0, 256, (BATCH, SIZE, SIZE, 3), dtype=np.uint8)
    end = time.perf_counter() + seconds
    begin, done = time.process_time(), 0
    while time.perf_counter() < end:
        session.run(batch)
        done += BATCH
    return (time.process_time() - begin) / done


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
