"""The architectures defined here, held against what their papers published."""

from __future__ import annotations

import itertools
from functools import cache

import keras
import numpy as np
import pytest

from exporter.errors import ImpossibleInput, WeightsUnavailable
from exporter.graph.cut_points import cut_points
from exporter.models.building import build
from exporter.models.classic_networks import LocalResponseNormalization
from exporter.recipe.backbones import BACKBONES
from exporter.recipe.preprocessing import input_spec

# Neurons per layer, from the caption of figure 2 of Krizhevsky, Sutskever and Hinton 2012: "253,440-186,624-64,896-
# 64,896-43,264-4096-4096-1000". (No size of input gives the first, of conv1: 55 * 55 * 96 is 290,400.)
ALEXNET = {"conv2": 186_624, "conv3": 64_896, "conv4": 64_896, "conv5": 43_264, "fc6": 4096, "fc7": 4096}
# Kernel, channels that a kernel sees (half of them where the paper has two GPUs), and kernels: section 3.5 there.
ALEXNET_KERNELS = [
    (11, 3, 96), (5, 48, 256), (3, 256, 384), (3, 192, 384), (3, 192, 256), (1, 6 * 6 * 256, 4096), (1, 4096, 4096),
    (1, 4096, 1000),
]  # fmt: skip
# Side and width of each map in figure 3 of Zeiler and Fergus (arXiv:1311.2901). Its caption states 55 and 6 * 6 * 256
# in words; 110, 26 and 13 are drawn, and follow from the strides with the paddings of an implementation that is not
# ours: 1, 0, 1, 1, 1, and poolings that round up, in zfnet.py of github.com/osmr/imgclsmob.
ZFNET = {
    "conv1": (110, 96), "pool1": (55, 96), "conv2": (26, 256), "pool2": (13, 256), "conv3": (13, 384),
    "conv4": (13, 384), "conv5": (13, 256), "pool5": (6, 256),
}  # fmt: skip
# Output size and width from table 1 of Szegedy et al. (arXiv:1409.4842), and from its column "ops" millions of
# multiply-adds.
# Those of conv1 and of 5a, 34 and 54 there, follow from no kernel of the paper's: 7x7x3x64 weights at 112x112 positions
# are 118 million.
GOOGLENET = {
    "conv1": (112, 64, None), "pool1": (56, 64, None), "conv2": (56, 192, 360), "pool2": (28, 192, None),
    "inception_3a": (28, 256, 128), "inception_3b": (28, 480, 304), "pool3": (14, 480, None),
    "inception_4a": (14, 512, 73), "inception_4b": (14, 512, 88), "inception_4c": (14, 512, 100),
    "inception_4d": (14, 528, 119), "inception_4e": (14, 832, 170), "pool4": (7, 832, None),
    "inception_5a": (7, 832, None), "inception_5b": (7, 1024, 71),
}  # fmt: skip


# The same table's columns #1x1, #3x3 reduce, #3x3, #5x5 reduce, #5x5 and pool proj.
GOOGLENET_BRANCHES = (
    (64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64), (192, 96, 208, 16, 48, 64), (160, 112, 224, 24, 64, 64),
    (128, 128, 256, 24, 64, 64), (112, 144, 288, 32, 64, 64), (256, 160, 320, 32, 128, 128),
    (256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128),
)  # fmt: skip


def weights(kernel: int, channels: int, kernels: int) -> int:
    """Return how many weights and biases a convolution has."""
    return (kernel * kernel * channels + 1) * kernels


@cache
def model_of(name: str) -> keras.Model:
    """Return an architecture with its classifier."""
    return build(BACKBONES[name], "random", BACKBONES[name].preprocessing).model


def test_alexnet_has_the_neurons_of_its_paper() -> None:
    """Layer by layer, and its 60 million weights, summed here from the paper's own description of the layers."""
    model = model_of("AlexNet")
    assert {name: int(np.prod(model.get_layer(name).output.shape[1:])) for name in ALEXNET} == ALEXNET
    assert model.count_params() == sum(weights(*kernels) for kernels in ALEXNET_KERNELS) == 60_965_224


def test_zfnet_has_the_maps_of_its_paper() -> None:
    """Every side and width of figure 3."""
    shapes = {name: model_of("ZFNet").get_layer(name).output.shape for name in ZFNET}
    assert shapes == {name: (None, side, side, width) for name, (side, width) in ZFNET.items()}


def test_zfnet_is_alexnet_without_groups_and_with_a_finer_first_layer() -> None:
    """Its weights differ from AlexNet's by exactly that: 7x7 kernels for 11x11, and the halves that groups omit.

    They are as many as those of an implementation that is not ours, which asserts the number: zfnet.py of
    github.com/osmr/imgclsmob. The paper itself states none.
    """
    finer = 96 * 3 * (7 * 7 - 11 * 11)
    whole = 5 * 5 * 48 * 256 + 3 * 3 * 192 * 384 + 3 * 3 * 192 * 256
    assert model_of("ZFNet").count_params() == model_of("AlexNet").count_params() + finer + whole
    assert model_of("ZFNet").count_params() == 62_357_608


def test_googlenet_has_the_maps_of_its_paper() -> None:
    """Every output size of table 1, and as many weights as its columns add up to.

    (Its column "params" does not: the paper says 2.7K for conv1, which has 7x7x3x64 weights. The sum is that of Caffe's
    bvlc_googlenet, as netscope lists it.)
    """
    shapes = {name: model_of("GoogLeNet").get_layer(name).output.shape for name in GOOGLENET}
    assert shapes == {name: (None, side, side, width) for name, (side, width, _) in GOOGLENET.items()}
    expected, channels = weights(7, 3, 64) + weights(1, 64, 64) + weights(3, 64, 192), 192
    for one, three_reduce, three, five_reduce, five, pool in GOOGLENET_BRANCHES:
        ones = sum(weights(1, channels, width) for width in (one, three_reduce, five_reduce, pool))
        expected += ones + weights(3, three_reduce, three) + weights(5, five_reduce, five)
        channels = one + three + five + pool
    assert model_of("GoogLeNet").count_params() == expected + weights(1, channels, 1000) == 6_998_552


def test_googlenet_costs_what_its_paper_says() -> None:
    """Every plausible figure in the column "ops" of table 1, to its three digits."""
    up_to = {point.ref: point.flops or 0 for point in cut_points(model_of("GoogLeNet"))}
    names = list(GOOGLENET)
    for before, name in itertools.pairwise(names):
        published = GOOGLENET[name][2]
        if published is not None:
            assert (up_to[name] - up_to[before]) / 2e6 == pytest.approx(published, rel=0.01)


# Parameters and multiply-adds, in millions, from the README of the EfficientNet-Lite release, in
# models/official/efficientnet/lite of github.com/tensorflow/tpu, which counts a bit more.
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
        build(BACKBONES["AlexNet"], "random", input_spec(20, 20, shortest_side=23))
