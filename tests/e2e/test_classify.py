"""Classes over real processes: names, probabilities, and the command that classifies a folder."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import microtome
from microtome.client import errors
from microtome.commands.embed.command import main
from tests.e2e.conftest import Stack
from tests.e2e.photos import EXAMPLES, NAMES


def test_names_of_labelled_photos_are_right(stack: Stack, shared_data: Callable[[str], Path]) -> None:
    """Of 40 photos most are right, and a label with a photo's id has its name; bench/top1.py takes all 1,000."""
    photos = sorted(shared_data("imagenet1k_256").glob("*.jpg"))[12::25]
    right = 0
    with microtome.Client(stack.gateway.url) as client:
        for outcome in client.classify_many(photos):
            wanted, _, name = outcome.image.stem.partition("_")
            labels = {label.id: label.name for label in outcome.prediction.labels}
            right += outcome.prediction.labels[0].id == wanted
            assert labels.get(wanted, name).lower() == name.replace("_", " ").lower()
    # 85 % of all; with so few, four standard deviations below.
    assert right >= 25, right


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_clients_receive_names_and_vectors(stack: Stack, scheme: str) -> None:
    """Both transports, one photo or several, an embedding beside classes."""
    url = stack.gateway.url if scheme == "http" else f"grpc://{stack.gateway.grpc}"
    cat, *more = [EXAMPLES / f"{name}.jpg" for name in NAMES]
    with microtome.Client(url) as client:
        found = client.classify(cat, top_k=1000)
        assert 1.0 == pytest.approx(sum(label.score for label in found.labels), abs=1e-5)
        several = client.classify([cat, *more], function="none")
        assert [found.name, 5] == [several[0].name, len(several[1].labels)]
        (outcome,) = client.classify_many([cat], output=["classes", "top"])
        np.testing.assert_array_equal(outcome.vectors["top"], client.embed(cat))
        logits = client.embed(cat, output="classes")
        best = several[0].labels[0]
        assert (float(logits.max()), int(logits.argmax())) == (best.score, best.index)
        with pytest.raises(errors.BadRequest, match="POST /embed"):
            client.classify(cat, output="top")


def test_a_folder_becomes_a_table(stack: Stack, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each label; a file that is no image is listed as an error; the options are in the description."""
    folder, out = tmp_path / "photos", tmp_path / "classes.csv"
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name}.jpg").symlink_to(EXAMPLES / f"{name}.jpg")
    (folder / "broken.jpg").write_bytes(b"no image")
    words = ["classify", str(folder), "--follow-links", "--url", stack.gateway.url, "--top-k", "2"]
    assert 3 == main([*words, "--out", str(out)])
    with out.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(f"{folder}/{name}.jpg", rank) for name in sorted(NAMES) for rank in "12"] == [
        (row["key"], row["rank"]) for row in rows
    ]
    assert all(0 < float(row["score"]) <= 1 and row["label"] and row["rejected"] == "false" for row in rows)
    assert {"top_k": 2, "min_score": None, "function": None} == json.loads(
        (tmp_path / "classes.csv.about.json").read_text()
    )["asked"]["classes"]
    said = capsys.readouterr().err
    assert "images with their labels; 1 failed" in said
    assert all(line.startswith("microtome classify: ") for line in said.splitlines())
    assert 3 == main([*words, "--out", str(tmp_path / "classes.jsonl")])
    first = json.loads((tmp_path / "classes.jsonl").read_text().splitlines()[0])
    assert rows[0]["label"] == first["classes"]["labels"][0]["name"]
