"""The table of backbones, held against Keras itself."""

from __future__ import annotations

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

from exporter.errors import ImpossibleInput, UnknownBackbone
from exporter.graph.cut_points import cut_points
from exporter.head.scaling import scale
from exporter.models.building import build
from exporter.recipe.backbones import BACKBONES, Backbone, find_backbone
from exporter.recipe.preprocessing import impossibilities, input_spec

KERAS_ROWS = [row for row in BACKBONES.values() if row.module is not None]


def test_every_architecture_of_keras_has_a_row() -> None:
    """No backbone of the pinned Keras is missing, and none is invented."""
    factories = {name for name, value in vars(keras.applications).items() if inspect.isfunction(value)}
    assert factories == {row.name for row in KERAS_ROWS}


@pytest.mark.parametrize("row", KERAS_ROWS, ids=lambda row: row.name)
def test_scaling_in_the_graph_is_keras_own(row: Backbone) -> None:
    """Every row's scaling equals `preprocess_input` of the row's module, over all grey levels of each channel."""
    module = getattr(keras.applications, str(row.module))
    assert inspect.getmodule(getattr(keras.applications, row.name)) is inspect.getmodule(module.preprocess_input)
    levels = np.arange(256, dtype=np.uint8)
    images = np.stack([levels, levels[::-1], np.roll(levels, 100)], axis=-1).reshape(1, 16, 16, 3)
    expected = module.preprocess_input(images.astype(np.float32))
    np.testing.assert_allclose(scale(tf.constant(images), row.scaling), expected, rtol=1e-6, atol=1e-5)


class _DefaultSize(Exception):
    """Carries the size out of a factory before it builds anything."""


@pytest.mark.parametrize("row", [row for row in KERAS_ROWS if row.module != "mobilenet_v3"], ids=lambda row: row.name)
def test_default_size_is_keras_own(row: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row's input size is the one that the factory takes when none is given; MobileNetV3 has none."""

    def leave(*_: object, default_size: int, **__: object) -> None:
        raise _DefaultSize(default_size)

    factory = getattr(keras.applications, row.name)
    utilities = inspect.getmodule(keras.applications.imagenet_utils.preprocess_input)
    monkeypatch.setattr(utilities, "obtain_input_shape", leave)
    with pytest.raises(_DefaultSize) as left:
        factory(weights=None)
    assert left.value.args == (row.preprocessing.height,)


@pytest.mark.parametrize("row", BACKBONES.values(), ids=lambda row: row.name)
def test_default_preprocessing_is_possible(row: Backbone) -> None:
    """No row asks the gateway for a crop larger than the image."""
    assert impossibilities(row.preprocessing) == []


@pytest.mark.parametrize("name", ["MobileNetV3Small", "EfficientNetB0", "EfficientNetV2B0"])
def test_backbones_without_scaling_carry_it_themselves(name: str) -> None:
    """Pixels that are not scaled by us are scaled by a layer of the backbone, once."""
    built = build(BACKBONES[name], "random", input_spec(64, 64, shortest_side=73))
    assert built.row.scaling == "none"
    assert "Rescaling" in {point.kind for point in cut_points(built.model)}


def test_unknown_backbone_is_answered_with_the_nearest_three() -> None:
    """A name in the wrong case or with a slip is recognised."""
    with pytest.raises(UnknownBackbone, match=r"Received: 'resnet50v3'\. Nearest: ResNet50V2, ResNet50, "):
        find_backbone("resnet50v3")


def test_impossible_input_size_is_told_with_keras_reason() -> None:
    """InceptionV3 cannot be built for 50 pixels, and says so without a traceback."""
    with pytest.raises(ImpossibleInput, match=r"InceptionV3 can be built for. Received: 50x50 pixels\. .*75x75"):
        build(BACKBONES["InceptionV3"], "random", input_spec(50, 50, shortest_side=57))


def test_random_weights_are_the_same_on_every_build() -> None:
    """`weights: random` is seeded: the same recipe gives the same vectors."""
    pixels = input_spec(32, 32, shortest_side=37)
    first, second = (build(BACKBONES["EfficientNetLite0"], "random", pixels).model.get_weights() for _ in range(2))
    assert all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))
