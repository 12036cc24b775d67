"""Exports that cannot succeed: one clear line, the right exit code, nothing published."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.exported_models import REPOSITORY, exporter_command

BAD_LAYERS = """
models:
  - name: lite0
    backbone: EfficientNetLite0
    weights: imagenet
    outputs:
      - {name: a, layer: blok5c_add}
      - {name: b, layer: predictions, pooling: avg}
      - {name: c, layer: block5c_add, projection: {random: 500}}
      - {name: d, layer: block5c_add, projection: {pca: 64}}
      - {name: e, layer: block1a_project_bn, pooling: flatten, quantization: int8}
    calibration: {folder: PHOTOS}
  - name: downloaded
    backbone: MobileNetV2
    weights: imagenet
    outputs: [{name: c, layers: [out_relu, -999]}]
  - name: impossible
    backbone: InceptionV3
    weights: broken.h5
    input: {size: 50}
    outputs: [{name: d, layer: mixed1}]
"""


def test_without_a_network_one_line_says_what_was_wanted_and_the_ways_on(tmp_path: Path) -> None:
    """What was wanted, from where, why it failed, two ways on; no traceback, and never random weights instead."""
    dead_end = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "no_proxy": ""}
    done = exporter_command(
        ["export", "recipes/vgg19.yaml", "--out", str(tmp_path / "models")],
        environment={**os.environ, **dead_end, "KERAS_HOME": str(tmp_path / "keras")},
    )
    assert done.returncode == 2
    (told,) = [line for line in done.stderr.splitlines() if line.startswith("microtome: ")]
    assert told.startswith("microtome: Expected the ImageNet weights of VGG19 from https://storage.googleapis")
    assert "Connection refused. Two ways on: give the file, fetched elsewhere, as weights: FILE.h5 " in told
    assert "EfficientNetLite0" in told
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "models").exists()


def test_unknown_layers_of_all_models_are_told_with_their_lines_before_any_weights_are_read(tmp_path: Path) -> None:
    """Nothing is downloaded, and the file that is no weights file is not opened: the architectures are enough."""
    (tmp_path / "recipe.yaml").write_text(BAD_LAYERS.replace("PHOTOS", str(REPOSITORY / "examples")), encoding="utf-8")
    (tmp_path / "broken.h5").write_bytes(b"not weights")
    dead_end = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "no_proxy": ""}
    done = exporter_command(
        ["export", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "models")],
        environment={**os.environ, **dead_end, "KERAS_HOME": str(tmp_path / "keras")},
    )
    assert done.returncode == 2
    told = [line for line in done.stderr.splitlines() if str(tmp_path) in line]
    assert [line.removeprefix("microtome: ").partition(". Received")[0].partition(" for ")[0] for line in told] == [
        f"{tmp_path}/recipe.yaml:{text}"
        for text in (
            "7: models[0].outputs[0].layer: expected one of the 145 layers of efficientnetlite0",
            "8: models[0].outputs[1].pooling: expected a layer with a feature map [N, H, W, C] or tokens [N, T, C]",
            "9: models[0].outputs[2].projection: expected random of at most 112",
            "10: models[0].outputs[3].projection: expected pca of at most 2",
            "11: models[0].outputs[4].quantization: expected at most 16384 dimensions",
            "16: models[1].outputs[0].layers: expected a layer of mobilenetv2_1.00_224 from -156 to 155",
            "20: models[2].input: expected an input that InceptionV3 can be built for",
        )
    ]
    assert "Received: 'blok5c_add'. Nearest: block5c_add, " in told[0]
    assert "Say pooling: none." in told[1]
    assert "weights" not in done.stderr
    assert not (tmp_path / "models").exists()


def test_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    """A file that cannot be written in full, here for a limit on its size, ends in one line and no draft."""
    command = f"ulimit -f 2000; exec {sys.executable} -m exporter export recipe.yaml --out {tmp_path}"
    done = subprocess.run(["bash", "-c", command], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("microtome: Expected to write a version of lite0 under")
    assert list((tmp_path / "lite0").iterdir()) == []
