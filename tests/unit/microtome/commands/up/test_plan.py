"""The command lines of the children."""

from __future__ import annotations

from pathlib import Path

import pytest

from microtome.commands.up import command, plan
from microtome.commands.up.addresses import Endpoint
from modelserver.config import options


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
