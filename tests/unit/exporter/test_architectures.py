"""The architectures defined here, held against what their papers published."""

from __future__ import annotations

import itertools
from functools import cache

import keras
import numpy as np
import pytest

from exporter.anatomy.facts import cut_points
from exporter.architectures.local_response import LocalResponseNormalization
from exporter.backbones import BACKBONES
from exporter.building import build
from exporter.errors import ImpossibleInput, WeightsUnavailable
from exporter.preprocessing import Preprocessing

# Neurons per layer, from the caption of AlexNet's figure 2. (It says 253,440 for conv1, which no size of input gives:
# 55 * 55 * 96 is 290,400.)
ALEXNET = {"conv2": 186_624, "conv3": 64_896, "conv4": 64_896, "conv5": 43_264, "fc6": 4096, "fc7": 4096}
# Side and width of each map in figure 3 of Zeiler and Fergus.
ZFNET = {
    "conv1": (110, 96), "pool1": (55, 96), "conv2": (26, 256), "pool2": (13, 256), "conv3": (13, 384),
    "conv4": (13, 384), "conv5": (13, 256), "pool5": (6, 256),
}  # fmt: skip
# Output size and width from table 1 of Szegedy et al., then millions of multiply-adds. Those of conv1 and of 5a, 34 and
# 54 there, follow from no kernel of the paper's: 7x7x3x64 weights at 112x112 positions are 118 million.
GOOGLENET = {
    "conv1": (112, 64, None), "pool1": (56, 64, None), "conv2": (56, 192, 360), "pool2": (28, 192, None),
    "inception_3a": (28, 256, 128), "inception_3b": (28, 480, 304), "pool3": (14, 480, None),
    "inception_4a": (14, 512, 73), "inception_4b": (14, 512, 88), "inception_4c": (14, 512, 100),
    "inception_4d": (14, 528, 119), "inception_4e": (14, 832, 170), "pool4": (7, 832, None),
    "inception_5a": (7, 832, None), "inception_5b": (7, 1024, 71),
}  # fmt: skip


@cache
def model_of(name: str) -> keras.Model:
    """Return an architecture with its classifier."""
    return build(BACKBONES[name], "random", BACKBONES[name].preprocessing).model


def test_alexnet_has_the_neurons_of_its_paper() -> None:
    """Layer by layer, and 60 million weights: the 60,965,224 of the reference implementation in Caffe."""
    model = model_of("AlexNet")
    assert {name: int(np.prod(model.get_layer(name).output.shape[1:])) for name in ALEXNET} == ALEXNET
    assert model.count_params() == 60_965_224


def test_zfnet_has_the_maps_of_its_paper() -> None:
    """Every side and width of figure 3."""
    shapes = {name: model_of("ZFNet").get_layer(name).output.shape for name in ZFNET}
    assert shapes == {name: (None, side, side, width) for name, (side, width) in ZFNET.items()}


def test_zfnet_is_alexnet_without_groups_and_with_a_finer_first_layer() -> None:
    """Its weights differ from AlexNet's by exactly that: 7x7 kernels for 11x11, and the halves that groups omit."""
    finer = 96 * 3 * (7 * 7 - 11 * 11)
    whole = 5 * 5 * 48 * 256 + 3 * 3 * 192 * 384 + 3 * 3 * 192 * 256
    assert model_of("ZFNet").count_params() == model_of("AlexNet").count_params() + finer + whole


def test_googlenet_has_the_maps_of_its_paper() -> None:
    """Every output size of table 1, and the 6,998,552 weights of the reference implementation in Caffe."""
    shapes = {name: model_of("GoogLeNet").get_layer(name).output.shape for name in GOOGLENET}
    assert shapes == {name: (None, side, side, width) for name, (side, width, _) in GOOGLENET.items()}
    assert model_of("GoogLeNet").count_params() == 6_998_552


def test_googlenet_costs_what_its_paper_says() -> None:
    """Every plausible figure in the column "ops" of table 1, to its three digits."""
    up_to = {point.ref: point.flops or 0 for point in cut_points(model_of("GoogLeNet"))}
    names = list(GOOGLENET)
    for before, name in itertools.pairwise(names):
        published = GOOGLENET[name][2]
        if published is not None:
            assert (up_to[name] - up_to[before]) / 2e6 == pytest.approx(published, rel=0.01)


# Parameters and multiply-adds, in millions, from the table of the EfficientNet-Lite release, which counts a bit more.
@pytest.mark.parametrize(("number", "params", "operations"), [(0, 4.7, 407), (1, 5.4, 631), (2, 6.1, 899)])
def test_lite_variants_cost_what_their_authors_published(number: int, params: float, operations: float) -> None:
    """Wider, deeper and larger, by as much as released."""
    last = cut_points(model_of(f"EfficientNetLite{number}"))[-1]
    assert last.params / 1e6 == pytest.approx(params, rel=0.02)
    assert (last.flops or 0) / 2e6 == pytest.approx(operations, rel=0.07)


def test_local_response_normalisation_is_the_papers_formula() -> None:
    """Written out in numpy after section 3.3 of Krizhevsky et al."""
    x = np.random.default_rng(0).normal(0, 30, (2, 3, 3, 9)).astype(np.float32)
    expected = np.empty_like(x)
    for channel in range(9):
        around = x[..., max(0, channel - 2) : channel + 3]
        expected[..., channel] = x[..., channel] / (2 + 1e-4 * (around**2).sum(axis=-1)) ** 0.75
    np.testing.assert_allclose(LocalResponseNormalization()(x), expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["AlexNet", "ZFNet", "GoogLeNet"])
def test_networks_without_published_weights_say_so(name: str) -> None:
    """`weights: imagenet` is never silently random."""
    with pytest.raises(WeightsUnavailable, match=f"weights: random or a weights file for {name}, whose authors"):
        build(BACKBONES[name], "imagenet", BACKBONES[name].preprocessing)


def test_input_too_small_for_alexnet_is_told() -> None:
    """No traceback of shapes."""
    with pytest.raises(ImpossibleInput, match=r"AlexNet can be built for\. Received: 20x20 pixels"):
        build(BACKBONES["AlexNet"], "random", Preprocessing(20, 20, shortest_side=23))
