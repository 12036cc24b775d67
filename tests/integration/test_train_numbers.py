"""`microtome train` with a list of numbers: a box head on photos made here, exported; a network; mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image, ImageDraw

from exporter.cli import main
from exporter.head.dense import read_head
from exporter.recipe.images import read_pixels
from exporter.recipe.reading import read_recipe
from exporter.savedmodel.saved_model import loaded
from exporter.savedmodel.versions import manifest_of

SIDE, PHOTOS = 64, 110
RECIPE = """
models:
  - name: small
    backbone: MobileNetV2
    weights: random
    input: {size: 64, resize: squash, crop: none}
    outputs:
      - {name: places, layer: block_5_add, pooling: flatten}
      - {name: mean, layer: block_5_add, pooling: avg}
      - {name: map, layer: block_5_add, pooling: none}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a recipe, and photos of an ellipse at a random place on a textured background."""
    folder = tmp_path_factory.mktemp("numbers")
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    numbers = np.random.default_rng(0)
    boxes, sizes = ["path,x,y,width,height"], ["path,area [%],height,split"]
    for index in range(PHOTOS):
        blobs = Image.fromarray(numbers.integers(0, 120, (6, 6, 3), np.uint8)).resize((SIDE, SIDE))
        noise = numbers.normal(20, 12, (SIDE, SIDE, 1))
        image = Image.fromarray(np.clip(np.asarray(blobs) + noise, 0, 255).astype(np.uint8))
        width, height = numbers.uniform(0.2, 0.5, 2)
        x, y = numbers.uniform(0, 1 - width), numbers.uniform(0, 1 - height)
        ends = [float(end * SIDE) for end in (x, y, x + width, y + height)]
        ImageDraw.Draw(image).ellipse(ends, fill=tuple(map(int, numbers.integers(160, 256, 3))))
        image.save(folder / f"{index:03}.png")
        boxes.append(f"{index:03}.png,{x:.4f},{y:.4f},{width:.4f},{height:.4f}")
        split = "test" if index % 4 == 0 else "train"
        sizes.append(f"{index:03}.png,{100 * width * height:.3f},{height:.4f},{split}")
    (folder / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    (folder / "boxes.csv").write_text("\n".join([*boxes, "torn.png,0.1,0.1,0.2,0.2"]), encoding="utf-8")
    (folder / "sizes.csv").write_text("\n".join(sizes), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def boxes(place: Path) -> Path:
    """Return the folder of a training on boxes."""
    out = place / "found"
    arguments = ("--from", f"{place / 'recipe.yaml'}:places", "--out", str(out))
    assert main(["train", str(place / "boxes.csv"), *arguments]) == 0
    return out


def numbers_of(out: Path) -> dict[str, Any]:
    """Return `train.json` without its times."""
    found: dict[str, Any] = json.loads((out / "train.json").read_text(encoding="utf-8"))
    assert found.pop("timing")
    return found


def test_boxes_are_found_better_than_by_the_mean_and_by_average_pooling(boxes: Path) -> None:
    """By intervals of the paired difference on held-out photos; what cannot be decoded is named."""
    found = numbers_of(boxes)
    box = found["held_out"]["box"]
    assert box["mean"]["better"]["interval"][0] > 0.1
    assert box["average"]["better"]["interval"][0] > 0.02
    assert box["overlap"]["value"] == pytest.approx(box["mean"]["value"] + box["mean"]["better"]["value"], abs=2e-6)
    assert all(column["r2"]["value"] > 0.2 for column in found["held_out"]["columns"][:2])
    assert [entry["name"] for entry in found["left_out"]] == ["torn.png"]
    assert len(found["learning_curve"]) == 4


def test_the_report_shows_photos_and_needs_no_network(boxes: Path) -> None:
    """Its figures are those of the JSON."""
    page, box = (boxes / "report.html").read_text(encoding="utf-8"), numbers_of(boxes)["held_out"]["box"]
    assert not [word for word in ("http://", "https://", 'src="//') if word in page]
    for figure in (box["overlap"]["value"], box["mean"]["value"], box["average"]["value"]):
        assert f"{figure:.3f}" in page
    assert page.count("data:image/webp") == 22


def test_an_exported_version_says_the_boxes_of_its_head(place: Path, boxes: Path) -> None:
    """Within 1e-4 of Keras by verification, and equal to what the report measured; the manifest names the numbers."""
    assert main(["export", str(boxes / "recipe.yaml"), "--out", str(place / "models")]) == 0
    version = place / "models" / "found" / "1"
    manifest = manifest_of(version)
    (output,) = manifest["outputs"]
    assert (output["name"], output["kind"], output["shape"], output["units"]) == ("box", "numbers", [4], None)
    assert [label["name"] for label in output["labels"]] == ["x", "y", "width", "height"]
    held = [photo for photo in numbers_of(boxes)["photos"] if photo["held_out"]][:8]
    spec = read_recipe(boxes / "recipe.yaml").models[0].pixels
    with loaded(version) as one:
        answers = one.run(np.stack([read_pixels(place / photo["name"], spec) for photo in held]))
    assert np.allclose(answers["box"], [photo["said"] for photo in held], atol=1e-4)


def test_a_network_says_numbers_with_units(place: Path) -> None:
    """Given splits are kept; the vector that the numbers come from stays in the recipe."""
    out = place / "sizes"
    arguments = ["train", str(place / "sizes.csv"), "--from", f"{place / 'recipe.yaml'}:mean", "--out", str(out)]
    arguments += ["--head", "mlp", "--hidden", "32"]
    assert main(arguments) == 0
    found = numbers_of(out)
    assert found["held_out"]["photos"] == 28
    assert [column["unit"] for column in found["held_out"]["columns"]] == ["%", ""]
    assert found["held_out"]["columns"][0]["mean"]["better"]["interval"][0] > 0
    assert len(read_head(out / "head.npz").layers) == 2
    (model,) = yaml.safe_load((out / "recipe.yaml").read_text(encoding="utf-8"))["models"]
    assert [(one["name"], one.get("units")) for one in model["outputs"]] == [("mean", None), ("numbers", ["%", ""])]
    assert model["default_output"] == "numbers"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("boxes.csv", "--from", "recipe.yaml:map"), '"spp(1,2,4)" or flatten'),
        (("boxes.csv", "--from", "recipe.yaml:places", "--unfreeze", "-1"), "--unfreeze with classes only"),
        (("boxes.csv", "--from", "recipe.yaml:places", "--copies", "2"), "--copies with classes only"),
        (("boxes.csv", "--from", "recipe.yaml:places", "--refuse", "0.05"), "--refuse with classes only"),
        (("boxes.csv", "--from", "recipe.yaml:places", "--head", "mean"), "Say --head ridge"),
        (("labels.csv", "--from", "recipe.yaml:places", "--head", "ridge"), "which says numbers"),
        (("text.csv", "--from", "recipe.yaml:places"), "Expected a number as area"),
    ],
)
def test_mistakes_are_one_sentence(
    place: Path,
    arguments: tuple[str, ...],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With exit code 2, before any features are computed."""
    monkeypatch.chdir(place)
    (place / "labels.csv").write_text("path,label\n000.png,a\n001.png,b\n")
    (place / "text.csv").write_text("path,area\n000.png,large\n")
    assert main(["train", *arguments, "--out", "mistaken"]) == 2
    err = capsys.readouterr().err
    assert said in err.splitlines()[-1]
    assert "computing vectors" not in err
