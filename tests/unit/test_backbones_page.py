"""docs/backbones.md has every backbone, as it was measured and as the code has it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from exporter.anatomy.facts import cut_points
from exporter.backbones import BACKBONES
from exporter.building import build

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """Import docs/measure_backbones.py, which is no package's."""
    spec = importlib.util.spec_from_file_location("measure_backbones", DOCS / "measure_backbones.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_page_is_what_was_measured_of_every_backbone(script: ModuleType) -> None:
    """A row that the code has and the page has not wants `python docs/measure_backbones.py`."""
    data = script.known()
    assert set(data["backbones"]) == set(BACKBONES)
    assert script.page(data) == (DOCS / "backbones.md").read_text(encoding="utf-8")


def test_inputs_of_the_page_are_those_of_the_code(script: ModuleType) -> None:
    """A row whose default input changes must be measured again."""
    measured = {name: found["input"] for name, found in script.known()["backbones"].items()}
    assert measured == {name: [row.preprocessing.height, row.preprocessing.width] for name, row in BACKBONES.items()}


@pytest.mark.parametrize("name", ["EfficientNetLite0", "AlexNet", "MobileNetV2"])
def test_facts_of_the_page_are_those_of_the_architecture(script: ModuleType, name: str) -> None:
    """Weights and operations up to the default cut, and its map, are what `microtome layers` says now."""
    found = script.known()["backbones"][name]
    points = cut_points(build(BACKBONES[name], None, BACKBONES[name].preprocessing).model)
    (cut,) = [point for point in points if point.ref == found["cut"]]
    assert (list(cut.shape[1:]), cut.dimension) == (found["shape"], found["dimension"])
    assert (points[-1].params, cut.params, cut.flops) == (found["params"], found["params_to_cut"], found["flops"])
