"""Required splits of real architectures, and `microtome split` as a process."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import pytest

from exporter.errors import CannotPublish, ImpossibleSplit
from exporter.models.building import Built, build
from exporter.recipe.backbones import BACKBONES
from exporter.recipe.preprocessing import input_spec
from exporter.split.pipeline import slice_to, split_to
from microtome.manifest import InputSpec
from tests.exported_models import REPOSITORY, exporter_command, exporter_here

#  backbone: input size, where to cut, and how many tensors cross each cut
REQUIRED = {
    "DenseNet169": (
        32,
        {"pool2_pool": 1, "pool3_pool": 1, "conv4_block16_concat": 1, "conv4_block20_1_relu": 2, "pool4_pool": 1},
    ),
    "InceptionV3": (75, {"mixed4": 1, "activation_42": 2, "mixed5": 1}),
    "ResNet152": (32, {"conv2_block3_out": 1, "conv4_block18_1_relu": 2, "conv4_block36_out": 1}),
    "NASNetMobile": (32, {"reduction_concat_stem_2": 2, "normal_add_1_5": 4, "normal_concat_8": 2}),
    "InceptionResNetV2": (75, {"block35_10_ac": 1, "block17_10_mixed": 2, "mixed_7a": 1}),
}


def pixels(size: int) -> InputSpec:
    """Return a square input that needs no more of an image than it takes."""
    return input_spec(size, size, shortest_side=size)


def built(name: str, size: int) -> Built:
    """Return a backbone with random weights."""
    return build(BACKBONES[name], "random", pixels(size))


@pytest.mark.timeout(600)
# ResNet152 at its full size: docs/splits.md. Its residual blocks are also those of InceptionResNetV2.
@pytest.mark.parametrize("name", [name for name in REQUIRED if name != "ResNet152"])
def test_network_equals_the_chain_of_its_blocks(tmp_path: Path, name: str) -> None:
    """At every transition, within dense, inception, residual and NASNet blocks; on noise and on photos."""
    keras.utils.clear_session()  # so that layers without names of their own are called the same after any other test
    size, cuts = REQUIRED[name]
    done = split_to(built(name, size), pixels(size), list(cuts), tmp_path / "blocks", REPOSITORY / "examples")
    assert done.published
    assert [len(block.gives) for block in done.blocks[:-1]] == list(cuts.values())
    assert {comparison.images for comparison in done.comparisons} == {"noise", "photos"}
    assert {(comparison.block, comparison.output) for comparison in done.comparisons} == {
        (block.model.name, output) for block in done.blocks for output in block.gives
    }
    assert max(comparison.max_rel for comparison in done.comparisons) < 1e-5
    assert sorted(path.name for path in (tmp_path / "blocks").glob("*.keras")) == [
        f"block{number}.keras" for number in range(1, len(cuts) + 2)
    ]


def test_split_prints_the_proof_and_describes_the_blocks(tmp_path: Path) -> None:
    """As a process, with real weights: a table that says what was compared, and the same in split.json and as JSON."""
    out = tmp_path / "blocks"
    command = ["split", "EfficientNetLite0", "--size", "64", "--at", "block3b_add", "--out"]
    done = exporter_command([*command, str(out)])
    assert done.returncode == 0, done.stderr
    assert "block3b_add" in done.stdout
    assert "top_activation" in done.stdout
    assert done.stdout.count("yes") == 8
    told = exporter_here([*command, str(tmp_path / "again"), "--json"])
    assert json.loads(told.stdout) == json.loads((tmp_path / "again" / "split.json").read_bytes())
    described = json.loads((out / "split.json").read_bytes())
    assert [(block["name"], list(block["takes"]), list(block["gives"])) for block in described["blocks"]] == [
        ("block1", ["input_layer"], ["block3b_add"]),
        ("block2", ["block3b_add"], ["top_activation"]),
    ]
    assert described["backbone"]["weights"] == "imagenet"
    assert {(found["block"], found["output"]) for found in described["proof"]} == {
        ("block1", "block3b_add"), ("block2", "top_activation"),
    }  # fmt: skip
    assert len(described["proof"]) == 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "blocks"]


def test_slice_between_two_layers_is_proved_and_written(tmp_path: Path) -> None:
    """`--from` and `--to` leave one block, which leads from the network's own tensors to the network's own."""
    out = tmp_path / "slice"
    ends = ("block2a_project_bn", "block2b_add")
    done = slice_to(built("EfficientNetLite0", 32), pixels(32), ends, out, REPOSITORY / "examples")
    assert (done.blocks[0].takes, done.blocks[0].gives) == (("block2a_project_bn",), ("block2b_add",))
    assert {(found.form, found.images, found.equal) for found in done.comparisons} == {
        (form, images, True) for form in ("SavedModel", ".keras") for images in ("noise", "photos")
    }
    assert sorted(path.name for path in out.iterdir()) == ["slice", "slice.keras", "split.json"]


def test_failed_split_leaves_nothing(tmp_path: Path) -> None:
    """No photos, a cut that makes no block, a directory that is there already."""
    lite0, examples = built("EfficientNetLite0", 32), REPOSITORY / "examples"
    with pytest.raises(ImpossibleSplit, match="Expected --images with a folder of photos"):
        split_to(lite0, pixels(32), ["block2b_add"], tmp_path / "out", tmp_path)
    with pytest.raises(ImpossibleSplit, match="adds no block"):
        split_to(lite0, pixels(32), ["input_layer"], tmp_path / "out", examples)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    with pytest.raises(CannotPublish, match="a directory that is not there yet"):
        split_to(lite0, pixels(32), ["block2b_add"], tmp_path / "out", examples)
    assert list((tmp_path / "out").iterdir()) == []


def test_litter_of_a_split_that_was_killed_is_taken_away(tmp_path: Path) -> None:
    """A draft that no living run holds goes; a directory of the user's own with a like name stays."""
    for name in (".out-dead", ".output"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "block1.keras").touch()
    ends = ("block2a_project_bn", "block2b_add")
    slice_to(built("EfficientNetLite0", 32), pixels(32), ends, tmp_path / "out", REPOSITORY / "examples")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".output", "out"]


def test_directory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """A file in the way is a user's mistake, not a traceback."""
    (tmp_path / "file").touch()
    with pytest.raises(CannotPublish, match=r"Expected to write .*file/out\. Received: File exists"):
        split_to(built("EfficientNetLite0", 32), pixels(32), ["block2b_add"], tmp_path / "file" / "out",
                 REPOSITORY / "examples")  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "received"),
    [
        ([], "neither"),
        (["--from", "a"], "--from"),
        (["--at", "a", "--from", "b", "--to", "c"], "--at and --from and --to"),
    ],
)
def test_split_says_what_it_wants(arguments: list[str], received: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Either places to cut at or two ends; answered at once."""
    from exporter.cli import main  # noqa: PLC0415

    assert main(["split", "VGG16", "--out", "x", *arguments]) == 2
    wanted = "Expected --at LAYER, at least once; or --from LAYER and --to LAYER."
    assert f"{wanted} Received: {received}." in capsys.readouterr().err
