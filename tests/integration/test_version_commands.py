"""verify, inspect and bench: what a version says about itself, tried by processes that did not write it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.exported_models import export, exporter_command, exporter_here
from tests.pictures import png

RECIPE = """
models:
  - name: tiny
    backbone: MobileNet
    weights: random
    input: {size: 64, decode: fast}
    max_batch_size: 2
    calibration: photos
    outputs:
      - {name: early, layer: conv_pw_2_relu, pooling: gem, normalize: l2}
      - {name: short, layers: [conv_pw_2_relu, conv_pw_3_relu], projection: {pca: 4}, quantization: int8}
"""


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version with a projection, exported by the real command."""
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "photos").mkdir()
    for index in range(8):
        (folder / "photos" / f"{index}.png").write_bytes(png(index))
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    done = export(folder / "recipe.yaml", folder / "models")
    assert done.returncode == 0, done.stderr
    assert "looking at the calibration images" in done.stderr
    return folder / "models" / "tiny" / "1"


def test_manifest_tells_what_was_fitted(version: Path) -> None:
    """Explained variance by component, and a range for each dimension."""
    manifest = json.loads((version / "assets.extra" / "manifest.json").read_bytes())
    early, short = manifest["outputs"]
    assert (early["normalize"], early["projection"], early["quantization"]) == ("l2", None, None)
    projection = short["projection"]
    assert (projection["kind"], projection["from"], projection["dim"], projection["images"]) == ("pca", 128 + 128, 4, 8)
    assert projection["explained_variance"] == pytest.approx(sum(projection["explained_variance_ratio"]), abs=1e-5)
    assert [len(short["quantization"][side]) for side in ("min", "max")] == [4, 4]


def test_version_is_verified_by_another_process(version: Path) -> None:
    """Built again from its recipe, on real images too, it is the same down to the fingerprint."""
    photos = version.parents[2] / "photos"
    done = exporter_command(["verify", str(version), "--images", str(photos), "--json"])
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["ok"]
    checks = [finding["check"] for finding in report["findings"]]
    assert "short equals Keras on the same pixels" in checks
    assert "built again, the fingerprint is the same" in checks


def test_version_that_was_changed_is_found(version: Path, tmp_path: Path) -> None:
    """A graph under another's manifest is told, with exit code 1."""
    changed = tmp_path / "1"
    shutil.copytree(version, changed)
    manifest = changed / "assets.extra" / "manifest.json"
    manifest.write_text(manifest.read_text(encoding="utf-8").replace('"gem(3)"', '"avg"'), encoding="utf-8")
    done = exporter_here(["verify", str(changed)])
    assert done.returncode == 1
    assert "NOT as it should be" in done.stdout


def test_inspect_says_what_it_is(version: Path) -> None:
    """Name, backbone, input, and the way to each embedding."""
    done = exporter_command(["inspect", str(version)], environment={"COLUMNS": "200"})
    assert done.returncode == 0, done.stderr
    for text in ("tiny version 1", "MobileNet", "64x64 RGB", "gem(3), l2", "pca 256 to 4", "int8 ranges"):
        assert text in done.stdout
    assert "decode fast" in done.stdout
    assert "worst cosine with decode balanced 0.99" in done.stdout or "decode balanced 1.0" in done.stdout


def test_bench_times_every_batch_size_and_output(version: Path) -> None:
    """Ours and the plain model's times, in turns, and their ratio."""
    done = exporter_here(["bench", str(version), "--batch-sizes", "1,2", "--seconds", "0", "--json"])
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [(row["batch"], row["output"]) for row in rows] == [
        (size, name) for size in (1, 2) for name in ("early", "short", "(all)")
    ]
    assert all(row["milliseconds"] > 0 and row["plain_milliseconds"] > 0 and row["turns"] >= 3 for row in rows)


@pytest.mark.parametrize("command", ["verify", "inspect", "bench"])
def test_directory_that_is_no_version_is_told(command: str, tmp_path: Path) -> None:
    """A mistyped path is answered at once, with exit code 2."""
    done = exporter_here([command, str(tmp_path)])
    assert done.returncode == 2
    assert done.stderr.startswith("microtome: Expected the directory of a version, such as models/lite0/1.")
    assert "Loading" not in done.stderr
