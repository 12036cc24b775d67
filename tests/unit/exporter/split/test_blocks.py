"""Cutting small networks into blocks, and what cannot be cut."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from exporter.errors import ImpossibleSplit, UnknownLayer
from exporter.split.blocks import between, split, write_block
from exporter.split.pipeline import compare, prove
from tests.unit.exporter.small_models import small_model, strangely_named_model


def tangle() -> keras.Model:
    """Return a network with a shared layer, a skip over everything, a sum that is no layer, and two outputs."""
    images = keras.Input((8, 8, 3), name="images")
    stem = layers.Conv2D(4, 3, padding="same", name="stem")(images)
    shared = layers.Conv2D(4, 3, padding="same", groups=2, name="shared")
    once = shared(stem)
    twice = layers.BatchNormalization(name="norm")(shared(once) + stem)
    joined = layers.Concatenate(name="joined")([twice, images])
    return keras.Model(images, [layers.Dense(2, name="late")(joined), layers.ReLU(name="early")(stem)], name="tangle")


@pytest.fixture(scope="module")
def images() -> tf.Tensor:
    """Return two images of noise."""
    return tf.constant(np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32))


@pytest.mark.parametrize(
    "at", [["stem"], ["shared:0", "joined"], ["joined", "shared:1", "stem"], ["early", "norm"], ["-1"], ["shared:1"]]
)
def test_chain_of_written_blocks_is_the_network(tmp_path: Path, images: tf.Tensor, at: list[str]) -> None:
    """Whatever crosses, in whichever order the cuts are named: read back in both forms, all that leaves is the same."""
    model = tangle()
    blocks = split(model, at)
    assert len(blocks) == len(at) + 1
    for block in blocks:
        write_block(tmp_path, block)
    found = prove(model, blocks, tmp_path, {"noise": images})
    leaving = [(block.model.name, name) for block in blocks for name in block.gives]
    assert [(comparison.form, comparison.block, comparison.output) for comparison in found] == [
        (form, *output) for form in ("SavedModel", ".keras") for output in leaving
    ]
    assert blocks[-1].gives == ("late", "early")
    assert all(comparison.equal for comparison in found)
    assert min(comparison.cosine for comparison in found) > 0.999999


def test_names_that_scopes_do_not_allow_are_split(tmp_path: Path, images: tf.Tensor) -> None:
    """Blanks, colons and other alphabets; two names of the same length in one of those stay apart in a signature."""
    model = strangely_named_model()
    blocks = split(model, ["block1 conv a", "畳み込2", "合計", "stem:0:0"])
    for block in blocks:
        write_block(tmp_path, block)
    assert all(comparison.equal for comparison in prove(model, blocks, tmp_path, {"noise": images}))
    assert [layer.name for layer in model.layers] == [layer.name for layer in strangely_named_model().layers]
    (both,) = (block.gives for block in split(model, ["活性化2", "畳み込2"])[1:2])
    assert len(set(both)) == 2


def test_block_takes_and_gives_what_crosses() -> None:
    """By hand: after the stem, the stem's tensor and the image that the concatenation needs."""
    first, second, third = split(tangle(), ["stem", "joined"])
    assert first.takes == ("images",)
    assert set(first.gives) == set(second.takes) == {"images", "stem"}
    assert set(second.gives) == set(third.takes) == {"stem", "joined"}
    assert third.gives == ("late", "early")


def test_saved_blocks_are_frozen_and_flat(tmp_path: Path) -> None:
    """No variable and no function is left, also where Keras wraps a grouped convolution for XLA."""
    for block in split(tangle(), ["stem"]):
        write_block(tmp_path, block)
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            meta = tf.compat.v1.saved_model.load(session, ["serve"], str(tmp_path / block.model.name))
        assert not meta.graph_def.library.function
        assert not {node.op for node in meta.graph_def.node} & {"VarHandleOp", "ReadVariableOp", "PartitionedCall"}
        assert set(meta.signature_def["serving_default"].inputs) == set(block.takes)
        assert set(meta.signature_def["serving_default"].outputs) == set(block.gives)


@pytest.mark.parametrize("at", [["stem", "stem"], ["images"], ["stem", "shared:0", "0"]])
def test_cut_that_makes_no_block_is_refused(at: list[str]) -> None:
    """The same place twice, or the very beginning."""
    with pytest.raises(ImpossibleSplit, match="adds no block"):
        split(tangle(), at)


def test_cut_at_the_end_is_refused() -> None:
    """Nothing is left for a last block."""
    with pytest.raises(ImpossibleSplit, match="predictions adds no block"):
        split(small_model(), ["predictions"])


def test_unknown_place_is_answered_with_the_nearest() -> None:
    """As everywhere."""
    with pytest.raises(UnknownLayer, match=r"Received: 'stm'\. Nearest: stem"):
        split(tangle(), ["stm"])


def test_slice_between_two_layers_computes_what_lies_between(images: tf.Tensor) -> None:
    """Fed with what the network has at the first layer, it gives what the network has at the second."""
    model = tangle()
    block = between(model, "shared:0", "norm")
    assert (set(block.takes), block.gives) == ({"stem", "shared_0"}, ("norm",))
    stem = model.get_layer("stem")(images)
    once = model.get_layer("shared")(stem)
    expected = model.get_layer("norm")(model.get_layer("shared")(once) + stem)
    given = block.model({"stem": stem, "shared_0": once}, training=False)["norm"]
    np.testing.assert_allclose(given, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("start", "end"), [("norm", "stem"), ("early", "norm"), ("stem", "stem")])
def test_slice_needs_a_way_from_one_end_to_the_other(start: str, end: str) -> None:
    """Backwards, across, and from a layer to itself there is nothing between."""
    with pytest.raises(ImpossibleSplit, match=f"follows from {start}. Received: {end}"):
        between(tangle(), start, end)


def test_difference_is_measured_against_the_largest_value_of_its_image() -> None:
    """By hand: 0.5 off where the largest is 10; vectors at right angles have cosine 0."""
    wanted = np.array([[10.0, 0.0], [1.0, 0.0]], np.float32)
    found = compare("SavedModel", "noise", ("block1", "x"), np.array([[9.5, 0.0], [0.0, 1.0]], np.float32), wanted)
    assert (found.max_abs, found.max_rel, found.cosine, found.equal) == (1.0, 1.0, 0.0, False)
    near = compare("SavedModel", "noise", ("block1", "x"), wanted[:1] - 0.5 * np.array([[1, 0]]), wanted[:1])
    assert near.max_rel == pytest.approx(0.05)


def test_what_is_not_a_number_is_not_equal() -> None:
    """A chain that overflows is not let through."""
    wanted = np.ones((1, 2), np.float32)
    assert not compare("SavedModel", "noise", ("block1", "x"), wanted * np.nan, wanted).equal
