"""Killed at any stage, an export leaves nothing that looks like a version, and the next run leaves no litter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.exported_models import REPOSITORY, export

RECIPE = """
models:
  - name: tiny
    backbone: MobileNet
    weights: random
    input: {size: 32}
    max_batch_size: 2
    outputs: [{name: block1, layer: conv_pw_1_relu}]
"""


def killed_at(stage: str, recipe: Path, models: Path) -> None:
    """Start an export and kill it as soon as it says that it has come to a stage."""
    arguments = [sys.executable, "-m", "exporter", "export", str(recipe), "--out", str(models)]
    with subprocess.Popen(
        arguments, cwd=REPOSITORY, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stderr is not None
        assert any(line.strip() == stage for line in process.stderr), f"the export never came to {stage}"
        process.kill()


def contents(version: Path) -> dict[str, int]:
    """Return a version's files with their sizes; the manifest, which has the time in it, without."""
    return {
        str(file.relative_to(version)): 0 if file.name == "manifest.json" else file.stat().st_size
        for file in version.rglob("*")
        if file.is_file()
    }


@pytest.mark.timeout(900)
def test_export_killed_at_each_stage_leaves_nothing_broken_and_the_next_succeeds(tmp_path: Path) -> None:
    """The stages are those that an undisturbed export prints, so a new stage is tried here too."""
    recipe, models = tmp_path / "recipe.yaml", tmp_path / "models"
    recipe.write_text(RECIPE, encoding="utf-8")
    undisturbed = export(recipe, tmp_path / "undisturbed")
    assert undisturbed.returncode == 0, undisturbed.stderr
    whole = contents(tmp_path / "undisturbed" / "tiny" / "1")
    stages = [line for line in undisturbed.stderr.splitlines() if line.endswith(" ...")]
    assert stages[0] == "Loading TensorFlow ..."
    assert stages[-1] == "tiny: publishing ..."

    for stage in stages:
        killed_at(stage, recipe, models)
        left = [path for path in (models / "tiny").glob("*") if not path.name.startswith(".tmp-")]
        # The signal may come a moment after the rename; what is visible then is all there.
        assert all(stage == stages[-1] and contents(path) == whole for path in left), f"{left} after {stage}"

    done = export(recipe, models)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (models / "tiny").iterdir()] == ["1"]
    assert contents(models / "tiny" / "1") == whole
