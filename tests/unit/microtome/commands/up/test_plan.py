"""The command lines of the children."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from microtome.commands.up import command, plan
from microtome.commands.up.addresses import Endpoint
from modelserver.config import options
from tests.exported_models import REPOSITORY


@pytest.mark.parametrize(
    ("given", "expected"), [([], "--engine=auto"), (["--engine", "openvino"], "--engine=openvino")]
)
def test_the_engine_reaches_the_model_server(monkeypatch: pytest.MonkeyPatch, given: list[str], expected: str) -> None:
    """By its own flag, the best one without it."""
    monkeypatch.delenv("MICROTOME_MODEL_SERVER", raising=False)

    made = plan.make(command.build_parser().parse_args(given), ("lite0",), Endpoint("127.0.0.1", 8000), Path("socket"))

    assert made.model_server is not None
    assert expected in made.model_server.words


def test_both_sides_know_the_same_engines() -> None:
    """They do not import each other, so each has its own list."""
    assert options.ENGINES == command.ENGINES


def test_up_itself_imports_no_tensorflow() -> None:
    """With nothing to export, only a model server would, for a model that needs it."""
    program = """
import sys
sys.modules.update(dict.fromkeys(["tensorflow", "keras", "tensorflow_serving"]))
from argparse import Namespace
from pathlib import Path
from exporter.recipe.reading import read_recipe
from exporter.savedmodel.publication import published_version
from microtome.commands.up import run
recipe = Path("recipe.yaml")
print(*run.model_names(recipe), *(published_version(Path("absent"), model) for model in read_recipe(recipe).models))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False
    )
    assert (0, "lite0 None\n") == (done.returncode, done.stdout), done.stderr
