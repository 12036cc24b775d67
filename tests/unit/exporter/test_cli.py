"""The commands' manners: quick help, one line for a mistake, exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from exporter.cli import main
from exporter.commands import COMMANDS


@pytest.mark.parametrize("arguments", [["--help"], *([command, "--help"] for command in COMMANDS)])
def test_help_imports_nothing_heavy(repository: Path, arguments: list[str]) -> None:
    """Help is there at once, because neither TensorFlow nor YAML nor rich has been imported for it."""
    code = (
        "import sys\nfrom exporter.cli import main\ntry: main(sys.argv[1:])\nexcept SystemExit: pass\n"
        "sys.exit(','.join({'tensorflow', 'keras', 'yaml', 'rich', 'numpy'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=repository, check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: microtome")


def test_unknown_backbone_is_one_line_and_exit_code_two(capsys: pytest.CaptureFixture[str]) -> None:
    """A mistyped backbone is answered at once, with the nearest names."""
    assert main(["layers", "EfficientNetLite"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "microtome: Expected one of 46 backbones, a .keras or .h5 file, module:function or keras_hub:preset. "
        "Received: 'EfficientNetLite'. Nearest: EfficientNetLite2, EfficientNetLite1, EfficientNetLite0.\n"
    )


def test_bad_recipe_is_told_line_by_line_and_exit_code_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every problem has its line; nothing is exported."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("models: 3\nmodel: 4\n", encoding="utf-8")
    assert main(["export", str(recipe), "--out", str(tmp_path / "models")]) == 2
    assert capsys.readouterr().err.count("\n") == 2
    assert not (tmp_path / "models").exists()


def test_reader_that_has_seen_enough_is_no_error(repository: Path) -> None:
    """`microtome recipe schema | head` ends without a traceback, though the rest is not read."""
    with subprocess.Popen(
        [sys.executable, "-m", "exporter", "recipe", "schema"], cwd=repository, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0
