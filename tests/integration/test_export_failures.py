"""Exports that cannot succeed: one clear line, the right exit code, nothing published."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.exported_models import REPOSITORY, export, exporter_command

BAD_LAYERS = """
models:
  - name: lite0
    backbone: EfficientNetLite0
    weights: imagenet
    outputs:
      - {name: a, layer: blok5c_add}
      - {name: b, layer: predictions, pooling: avg}
"""


@pytest.mark.parametrize(
    ("recipe", "backbone"),
    [("resnet50", "ResNet50"), ("vgg19", "VGG19"), ("densenet169", "DenseNet169"), ("inceptionv3", "InceptionV3")],
)
def test_without_a_network_one_line_says_what_was_wanted_and_the_ways_on(
    tmp_path: Path, recipe: str, backbone: str
) -> None:
    """What was wanted, from where, why it failed, two ways on; no traceback, and never random weights instead."""
    dead_end = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "no_proxy": ""}
    done = exporter_command(
        ["export", f"recipes/{recipe}.yaml", "--out", str(tmp_path / "models")],
        environment={**os.environ, **dead_end, "KERAS_HOME": str(tmp_path / "keras")},
    )
    assert done.returncode == 2
    (told,) = [line for line in done.stderr.splitlines() if line.startswith("microtome: ")]
    assert told.startswith(f"microtome: Expected the ImageNet weights of {backbone} from https://storage.googleapis")
    assert "Connection refused. Two ways on: give the file, fetched elsewhere, as weights: FILE.h5 " in told
    assert "EfficientNetLite0" in told
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "models").exists()


def test_unknown_layers_are_told_together(tmp_path: Path) -> None:
    """Layers are known only once the backbone is built; all that are wrong are told then."""
    (tmp_path / "recipe.yaml").write_text(BAD_LAYERS, encoding="utf-8")
    done = export(tmp_path / "recipe.yaml", tmp_path / "models")
    assert done.returncode == 2
    assert "Received: 'blok5c_add'. Nearest: block5c_add, " in done.stderr
    assert "Say pooling: none." in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "models").exists()


def test_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    """A file that cannot be written in full, here for a limit on its size, ends in one line and no draft."""
    command = f"ulimit -f 2000; exec {sys.executable} -m exporter export recipe.yaml --out {tmp_path}"
    done = subprocess.run(["bash", "-c", command], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("microtome: Expected to write a version of lite0 under")
    assert list((tmp_path / "lite0").iterdir()) == []
