"""Killed at any stage, an export leaves nothing that looks like a version, and the next run leaves no litter."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

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


@contextmanager
def exporting(recipe: Path, models: Path) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """Start an export; its stages come on standard error."""
    arguments = [sys.executable, "-m", "exporter", "export", str(recipe), "--out", str(models)]
    with subprocess.Popen(
        arguments, cwd=REPOSITORY, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stderr is not None
        try:
            yield process, process.stderr
        except BaseException:
            process.kill()  # it may be stopped, and would be waited for
            raise


def killed_at(stage: str, recipe: Path, models: Path) -> None:
    """Start an export and kill it as soon as it says that it has come to a stage."""
    with exporting(recipe, models) as (process, said):
        assert any(line.strip() == stage for line in said), f"the export never came to {stage}"
        process.kill()


def left_at_each_stage(recipe: Path, models: Path, copies: Path) -> dict[str, Path]:
    """Export to the end, stopping at each stage for a copy of the files: what SIGKILL would leave there."""
    found: dict[str, Path] = {}
    with exporting(recipe, models) as (process, said):
        for line in said:
            if not line.endswith(" ...\n"):
                continue
            process.send_signal(signal.SIGSTOP)
            # It may have ended before the signal came.
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            found[line.strip()] = copies / str(len(found))
            if models.exists():
                shutil.copytree(models, found[line.strip()])
            process.send_signal(signal.SIGCONT)
    assert process.returncode == 0
    return found


def contents(version: Path) -> dict[str, int]:
    """Return a version's files with their sizes; the manifest, which has the time in it, without."""
    return {
        str(file.relative_to(version)): 0 if file.name == "manifest.json" else file.stat().st_size
        for file in version.rglob("*")
        if file.is_file()
    }


@pytest.mark.timeout(900)
def test_export_killed_at_each_stage_leaves_nothing_broken_and_the_next_succeeds(tmp_path: Path) -> None:
    """The stages are those that the export prints, so a new stage is tried here too."""
    recipe, undisturbed = tmp_path / "recipe.yaml", tmp_path / "undisturbed"
    recipe.write_text(RECIPE, encoding="utf-8")
    stages = left_at_each_stage(recipe, undisturbed, tmp_path / "copies")
    whole = contents(undisturbed / "tiny" / "1")
    assert next(iter(stages)) == "Loading TensorFlow ..."
    assert list(stages)[-1] == "tiny: publishing ..."
    for stage, models in stages.items():
        left = [path for path in (models / "tiny").glob("*") if not path.name.startswith(".tmp-")]
        # The signal may come a moment after the rename; what is visible then is all there.
        assert all(stage == "tiny: publishing ..." and contents(path) == whole for path in left), (
            f"{left} after {stage}"
        )
    # A run that is killed on top of what another left, and the next one.
    models = stages["tiny: verifying against Keras ..."]
    assert [path.name for path in (models / "tiny").glob(".tmp-*")]
    killed_at("tiny: verifying against Keras ...", recipe, models)
    assert all(path.name.startswith(".") for path in (models / "tiny").iterdir())
    done = export(recipe, models)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (models / "tiny").iterdir()] == ["1"]
    assert contents(models / "tiny" / "1") == whole
