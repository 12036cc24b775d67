"""The boxes that stand for a network, and the picture of them."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import keras
import pytest

from exporter.cli import main
from exporter.errors import UnknownLayer
from exporter.graph.drawing import draw, outline
from exporter.models.building import build
from exporter.recipe.backbones import BACKBONES
from exporter.recipe.preprocessing import input_spec


@pytest.fixture(scope="module")
def resnet() -> keras.Model:
    """Return ResNet50 on few pixels."""
    return build(BACKBONES["ResNet50"], None, input_spec(64, 64, shortest_side=64)).model


def test_like_neighbours_are_one_box(resnet: keras.Model) -> None:
    """ResNet50's stages of 3, 4, 6 and 3 blocks: the first of each widens, the rest are alike."""
    boxes = outline(resnet, [], expand=False)
    assert [(box.last.ref, box.repeats) for box in boxes] == [
        ("conv1_relu", 1), ("pool1_pool", 1),
        ("conv2_block1_out", 1), ("conv2_block3_out", 2), ("conv3_block1_out", 1), ("conv3_block4_out", 3),
        ("conv4_block1_out", 1), ("conv4_block6_out", 5), ("conv5_block1_out", 1), ("conv5_block3_out", 2),
    ]  # fmt: skip


def test_boxes_together_have_every_layer_once(resnet: keras.Model) -> None:
    """Nothing is left out and nothing drawn twice, collapsed or not."""
    for expand in (True, False):
        boxes = outline(resnet, ["conv4_block3_2_relu"], expand=expand)
        assert sum(box.repeats * box.kinds.total() for box in boxes) == len(resnet.layers)


def test_every_block_has_a_box_when_expanded(resnet: keras.Model) -> None:
    """`--all` counts nothing together."""
    boxes = outline(resnet, [], expand=True)
    assert len(boxes) == 2 + 16
    assert {box.repeats for box in boxes} == {1}


def test_marked_cut_ends_a_box_also_within_a_block(resnet: keras.Model) -> None:
    """The cut is where it was asked for, with the number of tensors that cross."""
    boxes = outline(resnet, ["conv4_block3_2_relu", "conv3_block2_out"], expand=False)
    assert [(box.mark.ref, box.mark.crossing) for box in boxes if box.mark] == [
        ("conv3_block2_out", 1), ("conv4_block3_2_relu", 2),
    ]  # fmt: skip


def test_unknown_mark_is_refused(resnet: keras.Model) -> None:
    """A picture with one cut missing would mislead."""
    with pytest.raises(UnknownLayer, match="conv9"):
        outline(resnet, ["conv9"], expand=False)


def test_picture_is_svg_with_every_box_and_cut(resnet: keras.Model) -> None:
    """Well-formed, with names, counts and the cut written out."""
    boxes = outline(resnet, ["conv3_block4_out"], expand=False)
    picture = ElementTree.fromstring(draw("ResNet <50>", boxes))
    texts = [text.text or "" for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[0] == "ResNet <50>"
    assert "conv4_block2_out … conv4_block6_out" in texts
    assert "\u00d75" in texts
    assert "cut at conv3_block4_out: 8\u00d78\u00d7512, 1 tensor crosses, 512 numbers after average pooling" in texts


def test_names_do_not_break_the_picture() -> None:
    """Characters that XML has no place for are escaped."""
    images = keras.Input((8, 8, 3))
    model = keras.Model(images, keras.layers.Conv2D(2, 3, name="a\x1b<b>\x00")(images))
    picture = draw("a model", outline(model, [], expand=True))
    texts = [element.text or "" for element in ElementTree.fromstring(picture).iter() if element.tag.endswith("text")]
    assert any(r"a\x1b<b>\x00" in text for text in texts), texts


def test_dense_blocks_are_one_box_each() -> None:
    """Layers of a dense block are alike but for the channels that they add; the box tells from how many to how many."""
    model = build(BACKBONES["DenseNet121"], None, input_spec(64, 64, shortest_side=64)).model
    (box,) = [box for box in outline(model, [], expand=False) if box.last.ref == "conv3_block12_concat"]
    assert (box.repeats, box.first.shape[-1], box.last.shape[-1]) == (12, 160, 512)


def test_picture_that_cannot_be_written_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, exit code 2."""
    assert main(["graph", "AlexNet", "--size", "99", "--out", str(tmp_path / "nowhere" / "g.svg")]) == 2
    assert "Expected to write" in capsys.readouterr().err
    assert main(["graph", "AlexNet", "--size", "99", "--out", str(tmp_path / "g.svg")]) == 0
    assert (tmp_path / "g.svg").read_text(encoding="utf-8").startswith("<svg")
