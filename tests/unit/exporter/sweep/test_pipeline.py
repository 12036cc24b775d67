"""Whole sweeps of a small network, by use; `tests/integration/test_sweep_command.py` has the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from exporter.export import export
from exporter.features.photos import Use, read_collection
from exporter.recipe.backbones import find_backbone
from exporter.recipe.images import read_pixels
from exporter.recipe.preprocessing import resolve
from exporter.recipe.reading import read_recipe
from exporter.savedmodel.saved_model import loaded
from exporter.sweep.outputs import numbers, recipe_text, write
from exporter.sweep.pipeline import Sweep, sweep
from exporter.sweep.request import Request, Variant
from exporter.sweep.tasks import measure_for

BACKBONE = "tests.unit.exporter.sweep.tiny:make"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of three classes that differ in colour."""
    folder = tmp_path_factory.mktemp("photos")
    drawn = np.random.default_rng(0)
    for label, colour in {"red": (170, 90, 90), "green": (90, 170, 90), "blue": (90, 90, 170)}.items():
        (folder / label).mkdir()
        for index in range(12):
            pixels = np.clip(drawn.normal(colour, 60, (40, 40, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{index:02}.png")
    return folder


def run(source: Path, out: Path, use: Use, poolings: tuple[str, ...] = ("avg", "max")) -> Sweep:
    """Sweep the small network."""
    row = replace(find_backbone(BACKBONE), scaling="tf")
    variants = tuple(
        Variant(row, "own", resize, resolve(row.preprocessing, {"resize": resize, "height": 32, "width": 32}))
        for resize in ("squash", "letterbox")
    )
    out.mkdir(exist_ok=True)
    request = Request(use, measure_for(use, None), variants, poolings, (), out, 0)
    found = sweep(request, read_collection(source, use, None))
    write(found, out, source)
    return found


@pytest.fixture(scope="module")
def searched(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Sweep, Path]:
    """Return a sweep for search with all poolings, and where it was written."""
    out = tmp_path_factory.mktemp("searched")
    return run(photos, out, "search", ("avg", "max", "gem(3)", "flatten", "spp(1,2,4)")), out


def test_search_by_two_preprocessings(photos: Path, searched: tuple[Sweep, Path]) -> None:
    """One default; a recipe that can be read, of the recommended, the best and the default."""
    found, out = searched
    assert sum(one.default for one in found.candidates) == 1
    recipe = read_recipe(out / "recipe.yaml")
    names = {output.name for model in recipe.models for output in model.outputs}
    assert names == {found.candidates[index].output.name for index in (found.recommended, found.best, found.default)}
    assert recipe_text(found, photos) == (out / "recipe.yaml").read_text(encoding="utf-8")
    assert found.scores[found.best].estimate > found.chance + 0.2


def test_every_candidate_can_be_exported_bit_for_bit(photos: Path, searched: tuple[Sweep, Path]) -> None:
    """Also pairs of layers, and `flatten` and `spp`, which are projected."""
    found, out = searched
    own = [index for index, one in enumerate(found.candidates) if one.variant == 0]
    assert {len(found.candidates[index].output.layers) for index in own} == {1, 2}
    assert any(found.candidates[index].output.projection for index in own)
    # Each is recommended once, in a recipe of its own; together they are one model.
    models: list[dict[str, Any]] = []
    for index in own:
        (place,) = [at for at, one in enumerate(found.deciding) if one == index]
        text = recipe_text(replace(found, decision=replace(found.decision, recommended=place)), photos)
        models.append(yaml.safe_load(text)["models"][0])
    outputs = {output["name"]: output for model in models for output in model["outputs"]}
    (out / "all.yaml").write_text(
        yaml.safe_dump({"models": [{**models[0], "outputs": list(outputs.values())}]}), encoding="utf-8"
    )
    (recipe,) = read_recipe(out / "all.yaml").models
    published = export(recipe, out / "models", verified=False)
    rows = found.setting.rows[:8]
    spec = found.request.variants[0].pixels
    pixels = np.stack([read_pixels(found.collection.photos[row].path, spec) for row in rows])
    with loaded(published.path) as model:
        answers = model.run(pixels)
    for index in own:
        name = found.candidates[index].output.name
        np.testing.assert_array_equal(answers[name].reshape(8, -1), found.vectors(index)[:8], name)


def test_classification_by_a_linear_probe(photos: Path, tmp_path: Path) -> None:
    """The probe decides, for the front and the default."""
    found = run(photos, tmp_path, "classify")
    assert found.measure == "linear probe"
    assert {found.default, found.recommended, found.best} <= set(found.deciding) == {*found.front, found.default}
    assert max(one.estimate for one in found.decisive) > 0.8
    assert f"{len(found.deciding)} of {len(found.candidates)} candidates got a linear probe" in found.choice
    assert found.choice in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert numbers(found)["notes"][-1] == found.choice


def test_unlabelled_photos_find_what_was_made_of_them(tmp_path: Path) -> None:
    """Without classes, altered copies look for the photos that they were made of."""
    (tmp_path / "photos").mkdir()
    for index in range(12):
        blocks = np.random.default_rng(index).integers(0, 256, (2, 2, 3), dtype=np.uint8)
        image = Image.fromarray(blocks).resize((64, 64), Image.Resampling.NEAREST)
        image.save(tmp_path / "photos" / f"{index:02}.png")
    found = run(tmp_path / "photos", tmp_path / "out", "search")
    assert len(found.setting.rows) == 12 * 5
    assert max(one.estimate for one in found.scores) > 0.5


def test_pairs(photos: Path, tmp_path: Path) -> None:
    """A list of pairs; sweep.json has the threshold for one per cent of false alarms, and is JSON."""
    lines = ["a,b,same"]
    lines += [f"red/{index:02}.png,red/{index + 1:02}.png,yes" for index in range(10)]
    lines += [f"red/{index:02}.png,blue/{index + 1:02}.png,no" for index in range(10)]
    (photos / "list.csv").write_text("\n".join(lines), encoding="utf-8")
    found = run(photos / "list.csv", tmp_path, "duplicates")
    written = json.loads((tmp_path / "sweep.json").read_text(encoding="utf-8"))
    assert written == json.loads(json.dumps(numbers(found)))
    assert all("threshold" in one["measures"] for one in written["candidates"])
    assert found.scores[found.best].estimate > 0.8
