"""docs/exports.md says what was measured, and what failed with its reason."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[2] / "docs"
ROW = {"ratio": 1.5, "spread": [1.4, 1.6], "cpu_ratio": 1.45, "turns": 7}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import docs/measure_exports.py, which is no package's, with what lies beside it."""
    monkeypatch.syspath_prepend(DOCS)
    return importlib.import_module("measure_exports")


def test_page_is_what_was_measured(script: ModuleType) -> None:
    """A row that the script has and the page has not wants `python docs/measure_exports.py`."""
    found = script.known()
    assert set(found["exports"]) == set(script.MODELS)
    assert set(found["plain"]) == set(script.WANTED)
    assert set(found["cuts"]) == {name for name, *_ in script.CUTS}
    assert script.page(found) == (DOCS / "exports.md").read_text(encoding="utf-8")


def test_every_row_has_as_many_cells_as_its_head(script: ModuleType) -> None:
    """Failures included, which take the place of a figure."""
    found = script.known()
    for failed in ({}, {"exports": {"ResNet50": {"failed": "Expected this. Received: that."}}}):
        changed = {key: {**found[key], **rows} for key, rows in failed.items()}
        page = script.page({**found, **changed})
        tables = [part.split("\n\n")[1].splitlines() for part in page.split("\n## ")[1:]]
        assert [len(rows) for rows in tables] == [5, 4, 6]
        assert all(len({row.count(" | ") for row in rows}) == 1 for rows in tables)
    assert "| ResNet50 | 3 | Expected this. Received: that. | - | - | < 60 s, < 4 GB |" in page


def test_one_failure_leaves_the_other_rows(script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An export that fails is not timed, a timing that fails is told, and everything else is measured."""
    ran = sys.modules["measuring"].Ran
    asked: list[str] = []

    def microtome(arguments: list[str]) -> object:
        asked.append(" ".join(arguments))
        failed = "bench" in arguments and "MobileNetV2" in asked[-1], "export" in arguments and "ResNet50" in asked[-1]
        reason = "no memory" if failed[0] else "not equal" if failed[1] else None
        return ran(2.0, 1.0, 10**9, json.dumps([ROW]), reason)

    def gone(*_: object) -> object:
        raise OSError("the version is gone")

    monkeypatch.setattr(script, "microtome", microtome)
    monkeypatch.setattr(script, "_timed_in_turns", gone)
    found = script._measured(tmp_path, 0.0)
    assert found["exports"]["ResNet50"] == found["plain"]["ResNet50"] == found["cuts"]["ResNet50"]
    assert found["exports"]["ResNet50"] == {"failed": "not equal"}
    assert found["plain"]["MobileNetV2"] == {"failed": "no memory"}
    assert found["plain"]["EfficientNetLite0"] == ROW
    assert found["cuts"]["VGG19"] == {"failed": "OSError: the version is gone"}
    assert not [command for command in asked if "bench" in command and "ResNet50" in command]


def test_command_that_fails_tells_its_last_line(script: ModuleType) -> None:
    """Not only that it ended with 2, and what it took all the same."""
    ran = script.microtome(["layers", "ResNet5O"])
    assert ran.failed.startswith("Expected one of 46 backbones")
    assert ran.seconds > 0
    assert ran.peak_bytes > 10**6
    assert script.microtome(["--version"]).failed is None
