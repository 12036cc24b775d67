"""`microtome sweep` as people use it: mistakes, a killed run, equal runs; `test_sweep_of_lite0.py` has its recipe."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from exporter.features.store import FeatureStore
from tests.exported_models import REPOSITORY, exporter_command

MODEL = """
import keras
from keras import layers

def make():
    images = keras.Input((32, 32, 3), name="images")
    x = layers.Conv2D(8, 3, 2, "same", activation="relu", name="stem")(images)
    y = layers.Conv2D(8, 3, padding="same", activation="relu", name="body")(x)
    x = layers.Add(name="sum")([x, y])
    x = layers.Conv2D(16, 3, 2, "same", activation="relu", name="head")(x)
    return keras.Model(images, layers.GlobalAveragePooling2D(name="pool")(x), name="mine")
"""
OPTIONS = ("--backbone", "mine:make", "--scaling", "tf", "--resize", "squash")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a model, photos of three classes, one file that is no photo, and a copy across classes."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "mine.py").write_text(MODEL, encoding="utf-8")
    numbers = np.random.default_rng(0)
    for label, colour in {"red": (200, 60, 60), "green": (60, 200, 60), "blue": (60, 60, 200)}.items():
        (folder / "photos" / label).mkdir(parents=True)
        for index in range(12):
            pixels = np.clip(numbers.normal(colour, 60, (40, 40, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / label / f"{index:02}.png")
    (folder / "photos" / "red" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    (folder / "photos" / "green" / "copy.png").write_bytes((folder / "photos" / "blue" / "03.png").read_bytes())
    return folder


def command(place: Path, *arguments: str) -> list[str]:
    """Return a command line for the folder's model."""
    return [sys.executable, "-m", "exporter", "sweep", *arguments]


def sweep(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a sweep of the folder's model to its end."""
    return subprocess.run(
        command(place, *arguments), cwd=place, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def swept(place: Path) -> subprocess.CompletedProcess[str]:
    """Return a sweep of the photos into `one/`."""
    done = sweep(place, "photos", *OPTIONS, "--out", "one")
    assert done.returncode == 0, done.stderr
    return done


def numbers(place: Path, out: str) -> dict[str, Any]:
    """Return `sweep.json` without its times."""
    found: dict[str, Any] = json.loads((place / out / "sweep.json").read_text(encoding="utf-8"))
    assert found.pop("timing")
    return found


def test_six_lines_three_files_and_photos_that_were_left_out(
    place: Path, swept: subprocess.CompletedProcess[str]
) -> None:
    """A torn file and a copy across classes are named; the report asks for nothing from a network."""
    assert len(swept.stdout.splitlines()) == 6
    left = {entry["name"]: entry["why"] for entry in numbers(place, "one")["left_out"]}
    assert set(left) == {"red/torn.png", "green/copy.png", "blue/03.png"}
    assert "blue/03.png" in left["green/copy.png"]
    assert "red/torn.png" in swept.stderr
    report = (place / "one" / "report.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in report
    assert not [word for word in ("http://", "https://", 'src="//', "@import") if word in report]


def test_a_killed_run_goes_on_where_it_was(place: Path, swept: subprocess.CompletedProcess[str]) -> None:
    """SIGKILL amid the features: the next run computes only what is missing, and the numbers are those of one run."""
    assert swept.returncode == 0
    with subprocess.Popen(
        command(place, "photos", *OPTIONS, "--out", "killed"), cwd=place, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    ) as process:  # fmt: skip
        while process.poll() is None and not list(place.glob("killed/features/*/head.json")):
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    (directory,) = (place / "killed" / "features").iterdir()
    whole = next((place / "one" / "features").iterdir())
    head = json.loads((directory / "head.json").read_text())
    # As after a kill later on: the first 16 photos are there, and nothing of the others.
    with FeatureStore.opened(directory, dict(_dimensions(place)), head["count"], head["head"]) as store:
        done = FeatureStore(whole, dict(_dimensions(place)), head["count"])
        store.states[:] = 0
        for index in range(16):
            store.write(index, {name: done.vectors(name)[index] for name in store.dimensions}, done.hashes[index])
        marked = next(iter(store.dimensions))
        store.flush()
        before = store.vectors(marked)[:16].copy()
    assert sweep(place, "photos", *OPTIONS, "--out", "killed").returncode == 0
    # Also what two runs have in common: everything but times.
    assert numbers(place, "killed") == numbers(place, "one")
    assert (place / "one" / "recipe.yaml").read_text() == (place / "killed" / "recipe.yaml").read_text()
    after = FeatureStore(directory, dict(_dimensions(place)), head["count"]).vectors(marked)[:16]
    np.testing.assert_array_equal(before, after)


def _dimensions(place: Path) -> list[tuple[str, int]]:
    return [(one["name"], one["dimension"]) for one in numbers(place, "one")["candidates"]]


def test_an_unknown_backbone_is_one_sentence() -> None:
    """Before anything is read."""
    done = exporter_command(["sweep", "nowhere", "--backbone", "EfficientNetLite"])
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "Nearest: EfficientNetLite2" in done.stderr
