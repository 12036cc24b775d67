"""Export a recipe the way a user does, as a process, and only once for all test workers."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


SQUASHED = """
models:
  - name: lite0
    backbone: EfficientNetLite0
    weights: imagenet
    input: {resize: squash, crop: none}
    outputs: [{name: top, layer: top_activation}]
"""
"""A recipe whose vectors differ from those of the default one."""


def export(recipe: Path, models: Path, *options: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """Run `python -m exporter export` to its end and return what came of it."""
    return exporter_command(["export", str(recipe), "--out", str(models), *options], timeout=timeout)


def exporter_command(
    arguments: Sequence[str], *, environment: dict[str, str] | None = None, timeout: float = 240
) -> subprocess.CompletedProcess[str]:
    """Run `python -m exporter` with some arguments to its end and return what came of it."""
    command = [sys.executable, "-m", "exporter", *arguments]
    return subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )


def export_once(recipe: Path, models: Path) -> Path:
    """Export a recipe unless another test worker has done so, and return the models directory.

    The exporter itself knows what is there already; the lock keeps two workers from making it at once.
    """
    models.mkdir(parents=True, exist_ok=True)
    with (models.parent / f"{models.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = export(recipe, models)
    assert done.returncode == 0, done.stderr
    return models
