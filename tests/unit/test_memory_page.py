"""docs/memory.md is what was measured, and its rule holds of it."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import docs/measure_memory.py, which is no package's, with what lies beside it."""
    monkeypatch.syspath_prepend(DOCS)
    return importlib.import_module("measure_memory")


def test_page_is_what_was_measured(script: ModuleType) -> None:
    """What the script has and the page has not wants `python docs/measure_memory.py`."""
    data = script.known()
    assert list(data) == list(script.MEASURED)
    assert script.page(data) == (DOCS / "memory.md").read_text(encoding="utf-8")


def test_the_rule_holds_of_what_was_measured(script: ModuleType) -> None:
    """It promises no less than two versions need, and at most half as much again."""
    for name, found in script.known().items():
        assert found["versions"] <= script.expected(name, found) <= 1.5 * found["versions"], name


def test_seven_sets_grow_the_server_once(script: ModuleType) -> None:
    """By warm-up: a gateway's callers add less than half a copy of the weights, or the buffers of a few requests."""
    for name, found in script.known().items():
        assert len(found["gateway"]) == 7
        assert found["gateway"][-1] - found["asked"] < max(found["weights"] / 2, 16), name
        assert found["in_turn"]["grown"] < max(found["weights"] / 2, 64), name


def test_the_rule_for_one_output_has_one_set(script: ModuleType) -> None:
    """And the page's example is by it."""
    assert script.host_bytes(1e9, 1, 1) == pytest.approx(1.2e9 + 2e9 + 0.1e9)
    assert script.host_bytes(1.2e9, 4, 2) == pytest.approx(15.8e9)
    assert "1.2 + (1.2 x 6 + 0.1) x 2 = 15.8 GB" in script.ABOUT
