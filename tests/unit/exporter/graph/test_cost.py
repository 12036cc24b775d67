"""Counting weights and operations, by hand and against the paper."""

from __future__ import annotations

import keras
import pytest
from keras import layers

from exporter.graph.cost import count_flops, count_params
from exporter.head.slicing import cut
from exporter.models import efficientnet_lite
from tests.unit.exporter.small_models import DEEP, VECTOR, small_backbone, small_recipe

CONV = 4 * 4 * (3 * 3 * 3 * 4)
DEPTHWISE = 4 * 4 * (3 * 3 * 4)


def test_each_output_costs_what_its_part_of_the_network_does() -> None:
    """An early output is not charged for the deeper layers: multiply-adds times two, and weights, by hand."""
    early, deep = cut(small_backbone(), small_recipe(VECTOR, DEEP)).outputs
    assert (early.params, early.flops) == (108, 2 * CONV)
    assert (deep.params, deep.flops) == (108 + 16 + 36 + 4, 2 * (CONV + DEPTHWISE))


def test_separable_convolution_counts_both_halves() -> None:
    """A stride lies in the depthwise half, so both halves have the output's positions."""
    images = keras.Input((8, 8, 3))
    model = keras.Model(images, layers.SeparableConv2D(5, 3, 2, "same")(images))
    assert count_flops(model) == 2 * 4 * 4 * (3 * 3 * 3 + 3 * 5)


def test_what_cannot_be_counted_is_not_guessed() -> None:
    """A layer with weights of a kind that is not known makes the count unknown."""
    images = keras.Input((8, 8))
    assert count_flops(keras.Model(images, layers.LSTM(4)(images))) is None


def test_layer_called_twice_costs_twice_and_weighs_once() -> None:
    """Its weights are shared, its work is not."""
    images = keras.Input((8, 8))
    dense = layers.Dense(8, use_bias=False)
    model = keras.Model(images, dense(dense(images)))
    assert (count_params(model), count_flops(model)) == (64, 2 * 2 * 8 * 64)


def test_lite0_costs_what_its_authors_published() -> None:
    """4.7 million weights and 407 million multiply-adds, by the release's own table, which counts a little more."""
    model = efficientnet_lite.build("EfficientNetLite0", 224, 224, include_top=True)
    assert count_params(model) == pytest.approx(4.7e6, rel=0.02)
    assert count_flops(model) == pytest.approx(2 * 407e6, rel=0.06)
