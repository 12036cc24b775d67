"""The exporter's SavedModel compared with that of Keras' own `model.export()`, in sessions of one thread.

python -m bench.baselines.frozen BACKBONE DIRECTORY ROUNDS SECONDS: prints JSON, CPU seconds per image of both in each
round.
"""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np

from bench.baselines.cost import cpu_seconds_each
from bench.baselines.session import Session
from bench.reporting.comparison import interleaved

BATCH = 8
SIZE = 224


SCALING = {"MobileNetV2": ("tf", (1 / 127.5, -1.0)), "ResNet50": ("none", (1.0, 0.0))}
"""Of each backbone: the recipe's, and the factor and offset of a Rescaling layer."""


def main(backbone: str, directory: Path, rounds: int, seconds: float) -> None:
    """Measure and print."""
    if not directory.is_dir():
        export_both(backbone, directory)
    batch = np.random.default_rng(0).integers(0, 256, (BATCH, SIZE, SIZE, 3), dtype=np.uint8)
    paths = {"frozen": directory / "models" / "network" / "1", "plain": directory / "plain"}
    runs = {name: partial(Session(path, threads=1).run, batch) for name, path in paths.items()}
    for run in runs.values():
        cpu_seconds_each(run, 0.5)
    contestants = {name: partial(cpu_seconds_each, run, seconds, BATCH) for name, run in runs.items()}
    print(json.dumps({"rounds": interleaved(contestants, rounds)}))


def export_both(backbone: str, directory: Path) -> None:
    """Write the same network by the exporter, and by `model.export()` with scaling before and pooling after it."""
    import keras  # noqa: PLC0415, not needed when the directory is there

    directory.mkdir(parents=True)
    network = getattr(keras.applications, backbone)(weights=None, include_top=False, input_shape=(SIZE, SIZE, 3))
    numbers = np.random.default_rng(0)
    for weight in network.weights:
        # As Keras makes them, batch norms add zero, which TensorFlow removes; no trained network is like that.
        if weight.name in {"moving_mean", "beta"}:
            weight.assign(numbers.normal(0, 0.1, weight.shape))
    network.save(directory / "network.keras")
    scaling, rescaling = SCALING[backbone]
    output = {"name": "top", "layer": network.layers[-1].name}
    model = {"name": "network", "backbone": "network.keras", "input": {"size": SIZE, "scaling": scaling}}
    recipe = directory / "recipe.yaml"
    recipe.write_text(json.dumps({"models": [{**model, "outputs": [output]}]}), encoding="utf-8")  # JSON is YAML
    words = ["export", str(recipe), "--out", str(directory / "models")]
    subprocess.run([sys.executable, "-m", "exporter", *words], check=True, stdout=sys.stderr)
    pixels = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    features = keras.layers.GlobalAveragePooling2D()(network(keras.layers.Rescaling(*rescaling)(pixels)))
    keras.Model(pixels, features).export(str(directory / "plain"), format="tf_saved_model", verbose=False)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
