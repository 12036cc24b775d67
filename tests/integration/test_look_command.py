"""`microtome look` as people use it: a run that is killed and one that goes on, and what random weights change."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from exporter.look.heat import channel_norm, class_target, eigen_cam, layer_cam
from exporter.look.html import report
from exporter.look.pipeline import look
from exporter.look.subject import Request, Subject
from exporter.models.building import build
from exporter.recipe.backbones import BACKBONES, find_backbone
from exporter.recipe.images import read_pixels
from exporter.recipe.reading import read_recipe
from tests.exported_models import REPOSITORY
from tests.pictures import png

RECIPE = """
models:
  - name: tiny
    backbone: tests.unit.exporter.sweep.tiny:make
    input: {size: 32, scaling: tf}
    outputs: [{name: sum, layer: sum, pooling: max}]
"""

Array = np.ndarray[Any, Any]


def test_a_killed_look_goes_on_where_it_was(tmp_path: Path) -> None:
    """SIGKILL amid the work; the next run keeps what is there, and reports the same as a run without a kill."""
    (tmp_path / "photos").mkdir()
    for index in range(20):
        (tmp_path / "photos" / f"{index:02}.png").write_bytes(png(seed=index))
    (tmp_path / "photos" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    words = ["look", "recipe.yaml", "--layer", "sum", "--photos", "photos", "--channels", "5", "--heat", "3"]
    command = [sys.executable, "-m", "exporter", *words, "--out", "killed.html"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        while process.poll() is None and not list(tmp_path.glob("killed.features/*/rebuilt/*.png")):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    (features,) = tmp_path.glob("killed.features/*")
    made = {path: path.stat().st_mtime_ns for path in features.glob("rebuilt/*.png")}
    assert made
    for path in list(made)[::2]:  # as after an earlier kill
        path.unlink()
        del made[path]
    (tmp_path / "killed.html").unlink(missing_ok=True)
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert (done.returncode, done.stdout.count("\n")) == (0, 1), done.stderr
    assert "5 channels, 20 photos, 1 left out" in done.stdout
    assert "left out: torn.png" in done.stderr
    assert made == {path: path.stat().st_mtime_ns for path in made}
    (recipe,) = read_recipe(tmp_path / "recipe.yaml").models
    row = replace(find_backbone(recipe.backbone), scaling="tf")
    subject = Subject(build(row, "own", recipe.input), recipe.pixels, "sum")
    photos = tuple(sorted((tmp_path / "photos").iterdir()))
    out = tmp_path / "whole.html"
    whole = look(subject, Request("sum", "max", photos, tmp_path / "photos", out, 5, 3, None, None))
    # Pictures may differ in the last bit: fewer images went back together.
    assert words_of(report(whole)) == words_of((tmp_path / "killed.html").read_text(encoding="utf-8"))


def words_of(text: str) -> str:
    """Return a report without its pictures."""
    return re.sub(r'src="data:[^"]*"', "", text)


def test_random_weights_change_what_they_must() -> None:
    """Adebayo et al. 2018 on the trained Lite0, from the classifier down: LayerCAM changes, guided hardly does.

    Channel norm and EigenCAM know nothing of the layers above theirs, and change with the layers below.
    """
    row = BACKBONES["EfficientNetLite0"]
    subject = Subject(build(row, "imagenet", row.preprocessing), row.preprocessing, "block5c_add")
    pixels = read_pixels(REPOSITORY / "examples" / "cat.jpg", row.preprocessing)
    scores = subject.scores
    assert scores is not None
    cat = 285  # Egyptian cat

    def maps() -> dict[str, Array]:
        images = subject.scaled(tf.constant(pixels[None]))
        target = class_target(subject.network, images, subject.tensor, scores, cat)
        own = np.asarray(subject.maps(pixels)[0])
        seed = lambda values: tf.one_hot([cat], values.shape[1])  # noqa: E731
        return {
            "LayerCAM": layer_cam(subject.network, images, subject.tensor, target),
            "guided": np.abs(subject.back(pixels[None], scores, seed, "guided")).sum(axis=-1),
            "norm": channel_norm(own),
            "EigenCAM": eigen_cam(own),
        }

    def alike() -> dict[str, float]:
        return {name: rank_correlation(found, first[name]) for name, found in maps().items()}

    first = maps()
    shuffle(subject, "predictions")
    after = alike()
    assert after["LayerCAM"] < 0.6
    assert after["guided"] > 0.95
    assert after["norm"] == after["EigenCAM"] == 1
    shuffle(subject, "top_", "block7", "block6", "block5", "block4")
    after = alike()
    assert max(after["LayerCAM"], after["norm"], after["EigenCAM"]) < 0.6


def shuffle(subject: Subject, *prefixes: str) -> None:
    """Shuffle the kernels of some layers."""
    numbers = np.random.default_rng(0)
    for layer in subject.network.model.layers:
        kernels = [weight for weight in layer.weights if len(weight.shape) > 1]
        for kernel in kernels if layer.name.startswith(prefixes) else []:
            kernel.assign(numbers.permutation(np.asarray(kernel).ravel()).reshape(kernel.shape))


def rank_correlation(one: Array, other: Array) -> float:
    """Return Spearman's correlation of two heat maps."""
    first, second = (np.argsort(np.argsort(heat, axis=None)) for heat in (one, other))
    return float(np.corrcoef(first, second)[0, 1])
