"""`microtome train` as people use it: from a folder to an export that answers as Keras does; mistakes; odd folders."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import yaml
from PIL import Image

from exporter.cli import main
from exporter.head.dense import read_head
from exporter.recipe.images import read_pixels
from exporter.recipe.reading import read_recipe
from exporter.savedmodel.saved_model import loaded
from exporter.savedmodel.versions import manifest_of
from tests.exported_models import REPOSITORY

RECIPE = """
models:
  - name: small
    backbone: MobileNetV2
    weights: random
    input: {size: 32, resize: squash, crop: none}
    outputs:
      - {name: early, layer: block_3_expand_relu, pooling: avg}
      - {name: map, layer: block_3_expand_relu, pooling: none}
"""
COLOURS = {"red": (200, 60, 60), "green": (60, 200, 60), "blue": (60, 60, 200)}


def draw(folder: Path, label: str, names: list[str], seed: int = 0) -> None:
    """Write photos of one colour."""
    numbers = np.random.default_rng([seed, *label.encode()])
    (folder / label).mkdir(parents=True, exist_ok=True)
    for name in names:
        pixels = np.clip(numbers.normal(COLOURS.get(label, (120, 120, 120)), 70, (40, 40, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / label / name)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a recipe, photos of three classes, and files that are no photos of them."""
    folder = tmp_path_factory.mktemp("train")
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    for label in COLOURS:
        draw(folder / "photos", label, [f"{index:02}.png" for index in range(15)])
    (folder / "photos" / "red" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    (folder / "photos" / "green" / "copy.png").write_bytes((folder / "photos" / "blue" / "03.png").read_bytes())
    (folder / "photos" / "blue" / "notes.txt").write_text("not a photo")
    draw(folder / "photos", "__MACOSX", ["._00.png"])
    return folder


@pytest.fixture(scope="module")
def trained(place: Path) -> Path:
    """Return the folder of a training."""
    out = place / "colours"
    arguments = ("--from", f"{place / 'recipe.yaml'}:early", "--out", str(out), "--copies", "1")
    assert main(["train", str(place / "photos"), *arguments]) == 0
    return out


@pytest.fixture(scope="module")
def exported(place: Path, trained: Path) -> Path:
    """Return the version that an export of it made."""
    assert main(["export", str(trained / "recipe.yaml"), "--out", str(place / "models")]) == 0
    return place / "models" / "colours" / "1"


def numbers(out: Path) -> dict[str, Any]:
    """Return `train.json` without its times."""
    found: dict[str, Any] = json.loads((out / "train.json").read_text(encoding="utf-8"))
    assert found.pop("timing")
    return found


def test_what_is_no_photo_of_a_class_is_named(trained: Path) -> None:
    """A torn file, a file in two classes; what systems put beside photos is no class."""
    found = numbers(trained)
    assert {entry["name"] for entry in found["left_out"]} == {"red/torn.png", "green/copy.png", "blue/03.png"}
    assert [one["name"] for one in found["classes"]] == ["blue", "green", "red"]
    held = [photo for photo in found["photos"] if photo["held_out"]]
    assert len(held) == found["held_out"]["accuracy"]["photos"] >= 8
    assert found["held_out"]["accuracy"]["value"] > 0.8
    assert found["learning_curve"][-1]["trained_on"] == len(found["photos"]) - len(held)
    assert found["copies"]["without"]["photos"] == len(held)


def test_the_report_needs_no_network_and_says_the_numbers(trained: Path) -> None:
    """One file; its figures are those of the JSON."""
    page, found = (trained / "report.html").read_text(encoding="utf-8"), numbers(trained)
    assert "default-src 'none'" in page
    assert not [word for word in ("http://", "https://", 'src="//', "@import") if word in page]
    for figure in (found["held_out"]["accuracy"]["value"], found["calibration"]["after"]["ece"]):
        assert f"{figure:.3f}" in page


def test_an_exported_version_answers_as_its_head_and_keras_do(place: Path, trained: Path, exported: Path) -> None:
    """Scores of the SavedModel equal those of Keras' features and the head within 1e-4, and name the right classes."""
    manifest = manifest_of(exported)
    output = next(one for one in manifest["outputs"] if one["name"] == "classes")
    assert [label["name"] for label in output["labels"]] == ["blue", "green", "red"]
    assert manifest["default_output"] == "early"
    recipe = read_recipe(trained / "recipe.yaml").models[0]
    paths = [place / "photos" / label / f"{index:02}.png" for label in sorted(COLOURS) for index in range(5, 9)]
    pixels = np.stack([read_pixels(path, recipe.pixels) for path in paths])
    with loaded(exported) as version:
        answers = version.run(pixels)
    head = read_head(trained / "head.npz")
    unit = answers["early"] / np.linalg.norm(answers["early"], axis=1, keepdims=True)
    assert np.allclose(_scores(answers["classes"], output), _scores(head.logits(unit), output), atol=1e-4)
    assert (answers["classes"].argmax(axis=1) == np.repeat([0, 1, 2], 4)).mean() > 0.8


def test_verification_needs_the_very_head(trained: Path, exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The fingerprint covers the head; a changed file is no longer what the version was made from."""
    assert main(["verify", str(exported), "--sources", str(trained)]) == 0
    assert "the fingerprint is the same" in capsys.readouterr().out
    path, whole = trained / "head.npz", (trained / "head.npz").read_bytes()
    head = read_head(path)
    head.layers[0][0][0, 0] += 0.5
    try:
        head.write(path)
        assert main(["verify", str(exported), "--sources", str(trained)]) == 1
    finally:
        path.write_bytes(whole)
    assert "head.npz" in capsys.readouterr().out


def test_a_second_run_computes_no_features_and_finds_the_same(
    place: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Features are kept beside the results; everything but times is equal."""
    before = numbers(trained)
    arguments = ("--from", f"{place / 'recipe.yaml'}:early", "--out", str(trained), "--copies", "1")
    assert main(["train", str(place / "photos"), *arguments]) == 0
    assert "computing vectors" not in capsys.readouterr().err
    assert numbers(trained) == before


def test_an_index_with_splits_and_groups_is_respected(place: Path, tmp_path: Path) -> None:
    """Photos of `test` are held out, and groups stay together; few photos of a class get the nearest mean."""
    rows = ["path,label,group,split"]
    for label in COLOURS:
        for index in (0, 1, 2, 4, 5, 6):
            split = "test" if index > 3 else "train"
            rows.append(f"{place / 'photos' / label / f'{index:02}.png'},{label},{label}{index // 2},{split}")
    (tmp_path / "index.csv").write_text("\n".join(rows), encoding="utf-8")
    arguments = ("--from", f"{place / 'recipe.yaml'}:early", "--out", str(tmp_path / "out"), "--refuse", "0")
    assert main(["train", str(tmp_path / "index.csv"), *arguments]) == 0
    found = numbers(tmp_path / "out")
    assert found["head"]["kind"] == "mean"
    assert {photo["name"][-6:-4] for photo in found["photos"] if photo["held_out"]} == {"04", "05", "06"}
    written = yaml.safe_load((tmp_path / "out" / "recipe.yaml").read_text(encoding="utf-8"))
    assert "threshold" not in written["models"][0]["outputs"][1]


MISTAKES = [
    (["photos", "--from", "gone.yaml"], "gone.yaml"),
    (["photos", "--from", "recipe.yaml:eary"], "Nearest: early"),
    (["photos", "--from", "recipe.yaml:map"], "pooling: avg"),
    (["gone", "--from", "recipe.yaml:early"], "Expected a folder of photos"),
    (["photos/red", "--from", "recipe.yaml:early"], "to tell classes apart"),
    (["one", "--from", "recipe.yaml:early"], "at least two photos of each class"),
    (["strange", "--from", "recipe.yaml:early"], "of each class that is held out"),
    (["pairs.csv", "--from", "recipe.yaml:early"], "which lists pairs"),
    (["index.csv", "--from", "recipe.yaml:early"], "as split"),
    (["photos", "--from", "recipe.yaml:early", "--groups", "("], "--groups"),
    (["photos", "--from", "recipe.yaml:early", "--name", "../x"], "--name"),
    (["photos", "--from", "recipe.yaml:early", "--head", "mean", "--hidden", "8"], "--head mlp"),
    (["photos", "--from", "recipe.yaml:early", "--out", "recipe.yaml"], "a folder for the results"),
]


@pytest.mark.parametrize(("arguments", "said"), MISTAKES)
def test_mistakes_are_one_sentence(
    place: Path,
    arguments: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Said before any work, with exit code 2."""
    monkeypatch.chdir(place)
    if not (place / "one").exists():
        draw(place / "one", "red", ["a.png", "b.png"])
        draw(place / "one", "blue", ["a.png"])
        for label, split in (("red", "train"), ("green", "train"), ("red", "test"), ("blue", "test")):
            draw(place / "strange" / split, label, ["a.png", "b.png"], seed=len(split))
        (place / "pairs.csv").write_text("a,b,same\nx,y,1\n")
        (place / "index.csv").write_text("path,label,split\nphotos/red/00.png,red,later\n")
    out = () if "--out" in arguments else ("--out", "mistaken")
    assert main(["train", *arguments, *out]) == 2
    err = capsys.readouterr().err.splitlines()
    assert said in err[-1]
    assert err[-1].startswith("microtome: ")
    assert not (place / "mistaken" / "recipe.yaml").exists()
    shutil.rmtree(place / "mistaken", ignore_errors=True)


def _scores(logits: np.ndarray[Any, Any], output: dict[str, Any]) -> np.ndarray[Any, Any]:
    found = np.exp((logits - logits.max(axis=1, keepdims=True)) / output["temperature"])
    return np.asarray(found / found.sum(axis=1, keepdims=True))


TUNING = ("--unfreeze", "-4", "--epochs", "3", "--rate", "1e-3", "--refuse", "0.1")


@pytest.fixture(scope="module")
def tuned(place: Path) -> Path:
    """Return the folder of a fine-tuning."""
    out = place / "tuned"
    arguments = ("--from", f"{place / 'recipe.yaml'}:early", "--out", str(out), *TUNING)
    assert main(["train", str(place / "photos"), *arguments]) == 0
    return out


def test_a_fine_tuned_model_is_exported_as_any_of_the_users_own(place: Path, tuned: Path) -> None:
    """The recipe names the `.keras` file; served scores equal Keras' within 1e-4; the table is Keras'."""
    found = numbers(tuned)["fine_tuning"]
    model = keras.models.load_model(tuned / "model.keras")
    for index, layer in enumerate(model.layers):
        layer.trainable = index >= [one.name for one in model.layers].index(found["first_layer"])
    trainable = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    assert found["weights"]["unfrozen"] == {"trainable": trainable, "frozen": model.count_params() - trainable}
    assert found["weights"]["head_alone"]["trainable"] < trainable
    assert main(["export", str(tuned / "recipe.yaml"), "--out", str(place / "models")]) == 0
    version = place / "models" / "tuned" / "1"
    recipe = read_recipe(tuned / "recipe.yaml").models[0]
    output = next(one for one in manifest_of(version)["outputs"] if one["kind"] == "classes")
    pixels = np.stack([read_pixels(path, recipe.pixels) for path in sorted((place / "photos" / "red").glob("0*.png"))])
    with loaded(version) as one:
        answers = one.run(pixels)
    expected = np.asarray(model(pixels / np.float32(127.5) - 1, training=False))
    assert np.allclose(_scores(answers["classes"], output), _scores(expected, output), atol=1e-4)
    assert "fine-tuned" in (tuned / "report.html").read_text(encoding="utf-8")


def test_a_killed_fine_tuning_goes_on(place: Path, tuned: Path) -> None:
    """SIGKILL after an epoch: the same command ends with the numbers of a run that was not killed."""
    out = place / "killed" / "tuned"
    shutil.copytree(tuned / "features", out / "features")  # as an earlier run leaves them
    arguments = ["train", str(place / "photos"), "--from", f"{place / 'recipe.yaml'}:early", "--out", str(out), *TUNING]
    with subprocess.Popen(
        [sys.executable, "-m", "exporter", *arguments], cwd=REPOSITORY, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("Epoch 1"):
                break
        process.kill()
    assert not (out / "recipe.yaml").exists()
    assert (out / "fine_tuning.npz").exists()
    assert main(arguments) == 0
    assert not (out / "fine_tuning.npz").exists()
    assert numbers(out) == numbers(tuned)
