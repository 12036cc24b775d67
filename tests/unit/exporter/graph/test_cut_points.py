"""The facts of cut points: what crosses, what is needed, where blocks end."""

from __future__ import annotations

import re

import keras
import pytest
from keras import layers

from exporter.graph.cut_points import CutPoint, cut_points, default_cut
from exporter.models.building import build
from exporter.recipe.backbones import BACKBONES
from exporter.recipe.preprocessing import input_spec


def points_of(name: str, size: int) -> dict[str, CutPoint]:
    """Return a backbone's cut points by name."""
    model = build(BACKBONES[name], None, input_spec(size, size, shortest_side=size)).model
    return {point.ref: point for point in cut_points(model)}


def test_crossing_counts_the_tensors_that_the_rest_needs() -> None:
    """By hand: within a branch, its own tensor and the input of the other; after the merge, one."""
    images = keras.Input((8, 8, 3), name="images")
    stem = layers.Conv2D(4, 3, name="stem")(images)
    inner = layers.Conv2D(4, 3, padding="same", name="inner")(stem)
    model = keras.Model(images, layers.Add(name="sum")([inner, stem]))
    assert {point.ref: point.crossing for point in cut_points(model)} == {
        "images": 1, "stem": 1, "inner": 2, "sum": 1,
    }  # fmt: skip


def test_output_that_is_left_behind_crosses_too() -> None:
    """A model with two outputs needs the early one whatever comes later."""
    images = keras.Input((4,), name="images")
    early = layers.Dense(2, name="early")(images)
    late = layers.Dense(2, name="late")(early)
    crossing = {point.ref: point.crossing for point in cut_points(keras.Model(images, [early, late]))}
    assert crossing == {"images": 1, "early": 1, "late": 2}


def test_dense_block_is_clean_between_layers_and_not_within() -> None:
    """In DenseNet a concatenation carries all that came before; between, the concatenation is needed again."""
    points = points_of("DenseNet121", 64)
    assert points["conv3_block2_concat"].crossing == 1
    assert points["conv3_block2_1_conv"].crossing == 2


def test_inception_module_crosses_in_as_many_tensors_as_are_done() -> None:
    """Within a branch of mixed5, the branch and what the other branches begin with."""
    points = points_of("InceptionV3", 139)
    assert points["mixed5"].crossing == 1
    within = [point.crossing for point in points.values() if points["mixed4"].params < point.params]
    assert max(within) > 1


def test_blocks_end_where_people_cut() -> None:
    """The short list of ResNet50 is its blocks, not what stands between convolution and activation."""
    points = points_of("ResNet50", 64)
    ends = [ref for ref, point in points.items() if point.block_end]
    assert ends[:4] == ["conv1_relu", "pool1_pool", "conv2_block1_out", "conv2_block2_out"]
    assert "conv5_block3_out" in ends
    assert len(ends) == 18


def test_cells_of_nasnet_are_listed_although_two_tensors_cross() -> None:
    """Every cell takes the two before it, so no cut is clean; the cells are the places to cut all the same."""
    points = points_of("NASNetMobile", 64)
    assert points["normal_concat_5"].crossing == 2
    assert points["normal_concat_5"].block_end


def test_cost_up_to_a_layer_is_that_of_a_model_that_ends_there() -> None:
    """Weights of every tenth cut point equal those that Keras counts in the slice."""
    model = build(BACKBONES["InceptionV3"], None, input_spec(139, 139, shortest_side=139)).model
    points = cut_points(model)
    for point in points[5::30]:
        assert keras.Model(model.input, model.get_layer(point.ref).output).count_params() == point.params


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("MobileNet", "conv_pw_13_relu"),  # not conv_preds, nor the map of one position before it
        ("MobileNetV3Small", "activation"),  # not logits, nor the wide layer after pooling
        ("MobileNetV2", "out_relu"),
        ("DenseNet121", "relu"),
        ("VGG16", "block5_pool"),
    ],
)
def test_usual_cut_is_the_last_map_before_the_classifier(name: str, layer: str) -> None:
    """Also where the classifier is written as convolutions; its scores of 1000 classes are no embedding."""
    row = BACKBONES[name]
    cut = default_cut(cut_points(build(row, None, row.preprocessing).model))
    assert cut is not None
    assert re.fullmatch(rf"{layer}(_\d+)?", cut.ref)  # Keras counts on where a layer has no name of its own
    assert cut.shape[1:3] == (7, 7)


def test_network_without_a_map_has_no_usual_cut() -> None:
    """A perceptron is cut where its user says."""
    images = keras.Input((4,), name="images")
    assert default_cut(cut_points(keras.Model(images, layers.Dense(2)(images)))) is None


def test_map_of_what_is_not_known_is_still_a_map() -> None:
    """A layer whose receptive field cannot be told does not hide the maps after it."""
    images = keras.Input((8, 8, 3), name="images")
    x = layers.Permute((2, 1, 3), name="turned")(images)
    x = layers.Conv2D(4, 3, name="last")(x)
    model = keras.Model(images, layers.Dense(2)(layers.Flatten()(x)))
    cut = default_cut(cut_points(model))
    assert cut is not None
    assert cut.ref == "last"
