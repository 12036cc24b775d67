"""Export a recipe the way a user does, as a process, and only once for all test workers."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
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


def exporter_here(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run the exporter in this process, which has imported TensorFlow already, and return what came of it."""
    from exporter.cli import main  # noqa: PLC0415, other users of this module need no exporter

    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        code = main(list(arguments))
    return subprocess.CompletedProcess(arguments, code, stdout.getvalue(), stderr.getvalue())


def export_once(recipe: Path, models: Path, *options: str) -> Path:
    """Export a recipe unless another test worker has done so, and return the models directory.

    What the export wrote is kept beside the models, see `said`.
    """
    models.mkdir(parents=True, exist_ok=True)
    with (models.parent / f"{models.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept = _kept(models)
        if not kept.exists():
            done = export(recipe, models, *options)
            assert done.returncode == 0, done.stderr
            kept.write_text(json.dumps([done.stdout, done.stderr]), encoding="utf-8")
    return models


def said(models: Path) -> tuple[str, str]:
    """Return what the export of `export_once` wrote to standard output and standard error."""
    stdout, stderr = json.loads(_kept(models).read_text(encoding="utf-8"))
    return stdout, stderr


def _kept(models: Path) -> Path:
    return models.parent / f"{models.name}.said"
