"""Cuts all through six architectures: what the frozen graph gives is what Keras gives, at every tenth cut point."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from exporter.graph.cut_points import cut_points
from exporter.head.embedding import whole_head
from exporter.head.slicing import cut
from exporter.models.building import build
from exporter.recipe.backbones import BACKBONES
from exporter.recipe.preprocessing import input_spec
from exporter.recipe.resolved import ModelRecipe, OutputRecipe
from exporter.savedmodel.freezing import freeze
from exporter.verify.keras_reference import reference

SIZES = {"VGG16": 32, "ResNet50": 32, "MobileNetV2": 32, "DenseNet121": 32, "InceptionV3": 75, "ConvNeXtTiny": 32}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", SIZES)
def test_every_tenth_cut_point_is_keras_own(name: str) -> None:
    """One graph with all of them as raw feature maps, run as TensorFlow Serving runs it, within 1e-4 of the map."""
    side = SIZES[name]
    pixels = input_spec(side, side, shortest_side=side)
    built = build(BACKBONES[name], "random", pixels)
    outputs = tuple(
        OutputRecipe(f"cut{number}", point.ref, "none")
        for number, point in enumerate(cut_points(built.model)[1::10])
        if None not in point.shape[1:]
    )
    assert len(outputs) >= len(built.model.layers) // 10
    slice_ = cut(built, ModelRecipe(name.lower(), name, "random", pixels, outputs, outputs[-1].name))
    images = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), np.uint8)
    frozen = freeze(slice_, whole_head({}))
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.import_graph_def(frozen.definition, name="")
        given = session.run(
            {output: f"{node}:0" for output, node in frozen.outputs.items()}, {f"{frozen.input}:0": images}
        )
    expected = reference(slice_, images)
    assert set(given) == {output.name for output in outputs}
    assert max(_error(given[output.name], expected[output.name]) for output in outputs) < 1e-4
    keras.utils.clear_session()


def _error(given: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> float:
    return float(np.abs(given - expected).max() / max(np.abs(expected).max(), np.finfo(np.float32).tiny))
