"""docs/splits.md has the required splits at full size, as they were proved."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

from exporter.recipe.backbones import BACKBONES
from exporter.split.blocks import FORMS
from exporter.split.pipeline import EQUALITY
from tests.integration.test_split_command import REQUIRED

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import docs/measure_splits.py, which is no package's, with what lies beside it."""
    monkeypatch.syspath_prepend(DOCS)
    return importlib.import_module("measure_splits")


def test_page_is_what_was_found_of_every_split(script: ModuleType) -> None:
    """A split that the script has and the page has not wants `python docs/measure_splits.py`."""
    data = script.known()
    assert list(data) == list(script.SPLITS)
    assert {name: tuple(found["at"]) for name, found in data.items()} == script.SPLITS
    assert script.page(data) == (DOCS / "splits.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", REQUIRED)
def test_required_split_is_proved_at_full_size(script: ModuleType, name: str) -> None:
    """Cut where the tests cut it at a small size, with as many tensors crossing, in both forms, on noise and photos."""
    found = script.known()[name]
    _, cuts = REQUIRED[name]
    assert "failed" not in found
    assert found["at"] == list(cuts)
    assert [len(block["gives"]) for block in found["blocks"][:-1]] == list(cuts.values())
    pixels = BACKBONES[name].preprocessing
    assert found["blocks"][0]["takes"].popitem()[1] == [None, pixels.height, pixels.width, 3]
    leaving = {(block["name"], output) for block in found["blocks"] for output in block["gives"]}
    proved = {(row["form"], row["images"], row["block"], row["output"]) for row in found["proof"]}
    assert proved == {(form, images, *output) for form in FORMS for images in ("noise", "photos") for output in leaving}
    assert max(row["max_rel"] for row in found["proof"]) <= EQUALITY


def test_split_that_fails_is_told_with_its_reason(script: ModuleType) -> None:
    """One network that cannot be split leaves the others' rows, and says why."""
    data = {**script.known(), "ResNet152": {"at": ["x"], "failed": "Expected one. Received: none."}}
    page = script.page(data)
    assert "| ResNet152 | 224x224 | Expected one. Received: none. | - |" in page
    assert "| NASNetMobile | 224x224 | `" in page
