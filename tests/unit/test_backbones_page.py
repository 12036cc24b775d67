"""docs/backbones.md has every backbone, as it was measured and as the code has it."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import keras
import pytest

from exporter.graph.cut_points import cut_points, default_cut
from exporter.models.building import build
from exporter.recipe.backbones import BACKBONES
from exporter.runtime.memory import estimated

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import docs/measure_backbones.py, which is no package's, with what lies beside it."""
    monkeypatch.syspath_prepend(DOCS)
    return importlib.import_module("measure_backbones")


def test_page_is_what_was_measured_of_every_backbone(script: ModuleType) -> None:
    """A row that the code has and the page has not wants `python docs/measure_backbones.py`."""
    data = script.known()
    assert set(data) == set(BACKBONES)
    assert script.page(data) == (DOCS / "backbones.md").read_text(encoding="utf-8")


def test_inputs_of_the_page_are_those_of_the_code(script: ModuleType) -> None:
    """A row whose default input changes must be measured again."""
    measured = {name: found["input"] for name, found in script.known().items()}
    assert measured == {name: [row.preprocessing.height, row.preprocessing.width] for name, row in BACKBONES.items()}


@pytest.mark.parametrize("name", ["EfficientNetLite0", "AlexNet", "MobileNet", "MobileNetV3Small"])
def test_facts_of_the_page_are_those_of_the_architecture(script: ModuleType, name: str) -> None:
    """Weights and operations up to the default cut, and its map, are what `microtome layers` says now."""
    keras.utils.clear_session()  # layers without names of their own are numbered from the beginning
    found = script.known()[name]
    points = cut_points(build(BACKBONES[name], None, BACKBONES[name].preprocessing).model)
    cut = default_cut(points)
    assert cut is not None
    assert cut.ref == found["cut"]
    assert (list(cut.shape[1:]), cut.dimension) == (found["shape"], found["dimension"])
    assert (points[-1].params, cut.params, cut.flops) == (found["params"], found["params_to_cut"], found["flops"])


def test_every_default_cut_is_a_map_of_several_positions(script: ModuleType) -> None:
    """No row of the page is a classifier's scores."""
    assert [name for name, found in script.known().items() if found["shape"][0] < 6] == []


def test_export_that_failed_is_told_with_its_reason(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that has no figures says why, and a failure loses nothing that was known before."""
    ran = sys.modules["measuring"].Ran
    point = {"name": "top", "shape": [None, 7, 7, 5], "params": 5, "dimension": 5, "flops": 9, "default_cut": True}
    equal = {"check": "top equals Keras on the same pixels", "detail": "relative 1.4e-05 of 0.0001, cosine 1.0"}
    printed = {"layers": json.dumps([point]), "verify": json.dumps({"findings": [equal]})}
    failed = {"export": "was ended by SIGKILL"}

    def microtome(arguments: list[str]) -> object:
        return ran(2.0, 1.0, 10**9, printed.get(arguments[0], ""), failed.get(arguments[0]))

    monkeypatch.setattr(script, "microtome", microtome)
    row = script.measured("ResNet50", {"export_seconds": 3.0}, "a machine")
    assert ("top", [7, 7, 5], [224, 224]) == (row["cut"], row["shape"], row["input"])
    assert (3.0, "was ended by SIGKILL") == (row["export_seconds"], row["failed"])
    del failed["export"]
    again = script.measured("ResNet50", row, "a machine")
    assert (2.0, 1.0, 10**9, 0, "a machine") == tuple(
        again[key] for key in ("export_seconds", "cpu_seconds", "peak_bytes", "disk_bytes", "machine")
    )
    assert ("failed" not in again, again["worst_error"]) == (True, 1.4e-5)
    data = script.known()
    name = next(iter(data))
    data[name] = {**data[name], "failed": "was ended by SIGKILL"}
    assert f"\nA dash:\n\n- {name}: was ended by SIGKILL\n" in script.page(data)
    failed["layers"] = "no such backbone"
    with pytest.raises(SystemExit, match="microtome layers ResNet50: no such backbone"):
        script.measured("ResNet50", {}, "a machine")


def test_memory_is_not_estimated_larger_than_it_was_measured(script: ModuleType) -> None:
    """Needless warnings are soon ignored."""
    rows = {name: row for name, row in script.known().items() if "machine" in row}
    assert rows
    assert {
        name for name, row in rows.items() if estimated(row["params"], row["params_to_cut"]) > row["peak_bytes"]
    } == set()
