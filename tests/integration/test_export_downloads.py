"""`weights: imagenet` from beginning to end, with a host of our own in the place of Keras' own.

Keras asks over HTTP, keeps the file and loads it, all by its own code; only the address is another. What is served has
the architecture's names and shapes but random numbers, so that nothing need come from outside.
"""

from __future__ import annotations

import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from exporter.head.slicing import needs_top, prepare
from exporter.recipe.backbones import find_backbone
from exporter.recipe.reading import read_recipe
from exporter.savedmodel.fingerprint import fingerprint
from exporter.savedmodel.freezing import frozen_graph
from exporter.verify.sample_images import relative_errors, sample_pixels
from tests.exported_models import REPOSITORY

FILE = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_96_no_top.h5"
LAYER = "block_2_add"
RECIPE = f"""
models:
  - name: downloaded
    backbone: MobileNetV2
    weights: imagenet
    input: {{size: 96}}
    outputs: [{{name: early, layer: {LAYER}, pooling: none}}]
"""
# The exporter, once Keras has been told another address.
COMMAND = """
import sys
from keras.src.applications import mobilenet_v2
mobilenet_v2.BASE_WEIGHT_PATH = sys.argv[1]
from exporter.cli import main
sys.exit(main(sys.argv[2:]))
"""


@dataclass
class Host:
    """A host of weights.

    Attributes:
        address: Of its folder.
        model: What the weights are of.
        asked: The paths that were asked for.
    """

    address: str
    model: keras.Model
    asked: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """Serve one file of weights, in the format of Keras' own."""
    folder = tmp_path_factory.mktemp("host")
    keras.utils.clear_session()
    model = keras.applications.MobileNetV2(weights=None, include_top=False, input_shape=(96, 96, 3))
    numbers = np.random.default_rng(3)
    model.set_weights([numbers.uniform(0.05, 0.15, weight.shape) for weight in model.get_weights()])
    model.save(folder / FILE)
    serving = Host("", model)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, *_: object) -> None:
            serving.asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving.address = f"http://127.0.0.1:{server.server_address[1]}/"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield serving
        server.shutdown()


def export_from(host: Host, folder: Path) -> subprocess.CompletedProcess[str]:
    """Export the recipe with an empty Keras cache in the folder."""
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    arguments = ["export", str(folder / "recipe.yaml"), "--out", str(folder / "models")]
    environment = {**os.environ, "KERAS_HOME": str(folder / "keras"), "no_proxy": "127.0.0.1"}
    return subprocess.run(
        [sys.executable, "-c", COMMAND, host.address, *arguments],
        cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip


def test_weights_are_downloaded_kept_and_served(host: Host, tmp_path: Path) -> None:
    """The file without the classifier is asked for, once; stdout has the result and no trace of the download."""
    done = export_from(host, tmp_path)
    assert done.returncode == 0, done.stderr
    assert host.asked == [f"/{FILE}"]
    assert (tmp_path / "keras" / "models" / FILE).is_file()
    (line,) = done.stdout.splitlines()
    assert line.startswith("downloaded version 1 at ")

    pixels = sample_pixels(96, 96)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        meta = tf.compat.v1.saved_model.load(session, ["serve"], str(tmp_path / "models" / "downloaded" / "1"))
        signature = meta.signature_def["serving_default"]
        given = session.run(signature.outputs["early"].name, {signature.inputs["images"].name: pixels})
    expected = keras.Model(host.model.input, host.model.get_layer(LAYER).output)(
        keras.applications.mobilenet_v2.preprocess_input(pixels.astype(np.float32)), training=False
    )
    assert relative_errors(given, np.asarray(expected)).max() <= 1e-4


def test_file_without_the_classifier_gives_the_same_model(host: Host, tmp_path: Path, monkeypatch: Any) -> None:
    """Below the classifier, both files give one fingerprint; only an output of the classifier fetches it."""
    bare = FILE.replace("_96_", "_224_")
    full = bare.replace("_no_top", "")
    keras.utils.clear_session()
    whole = keras.applications.MobileNetV2(weights=None)
    for layer in host.model.layers:
        whole.get_layer(layer.name).set_weights(layer.get_weights())
    whole.save(tmp_path / full)
    host.model.save(tmp_path / bare)
    asked: list[str] = []

    def get_file(name: str, *_: object, **__: object) -> str:
        asked.append(name)
        return str(tmp_path / name)

    monkeypatch.setattr("keras.src.utils.file_utils.get_file", get_file)
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("size: 96", "size: 224"), encoding="utf-8")
    (recipe,) = read_recipe(tmp_path / "recipe.yaml").models
    found = []
    for one in (recipe, replace(recipe, include_top=True)):
        slice_ = prepare(one)
        shapes = [(output.params, output.flops) for output in slice_.outputs]
        found.append((fingerprint(frozen_graph(slice_, {}, "float32"), one.input), shapes))
    assert asked == [bare, full]
    assert found[0] == found[1]
    for layer in ("predictions", "-2"):
        other = replace(recipe, outputs=(replace(recipe.outputs[0], layer=layer),))
        assert needs_top(find_backbone(recipe.backbone), other)
