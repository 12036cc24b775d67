"""Killed at any moment, an export leaves nothing that looks like a version, and the next run leaves no litter."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.exported_models import REPOSITORY, export

RECIPE = """
models:
  - name: tiny
    backbone: MobileNet
    weights: random
    input: {size: 96}
    outputs: [{name: block3, layer: conv_pw_3_relu}]
"""


def draft_has(file: str) -> Callable[[Path], bool]:
    """Return a condition that holds once a draft has this file; an empty name means the draft itself."""
    return lambda models: any((models / "tiny").glob(f".tmp-*/{file}" if file else ".tmp-*"))


@pytest.mark.parametrize("reached", ["", "saved_model.pb", "assets.extra/recipe.json"])
def test_killed_export_leaves_nothing_visible_and_the_next_succeeds(tmp_path: Path, reached: str) -> None:
    """Whether killed with an empty draft, a written graph or complete files under verification."""
    recipe, models = tmp_path / "recipe.yaml", tmp_path / "models"
    recipe.write_text(RECIPE, encoding="utf-8")
    arguments = [sys.executable, "-m", "exporter", "export", str(recipe), "--out", str(models)]
    with subprocess.Popen(arguments, cwd=REPOSITORY, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not draft_has(reached)(models):
            assert process.poll() is None, "the export ended before it could be killed"
            assert time.monotonic() < deadline, f"the draft never had {reached}"
            time.sleep(0.001)
        process.kill()
    assert process.returncode == -9
    assert [path.name[:5] for path in (models / "tiny").iterdir()] == [".tmp-"]

    done = export(recipe, models)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (models / "tiny").iterdir()] == ["1"]
