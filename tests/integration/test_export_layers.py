"""Every layer of EfficientNet-Lite0 against an implementation that is not ours."""

from __future__ import annotations

import json
from typing import Any

import keras
import numpy as np
import pytest

from exporter.models.building import build
from exporter.recipe.backbones import BACKBONES
from tests.assets import make_lite0_reference as independent

LAYERS = json.loads(independent.FILE.read_text(encoding="utf-8"))["layers"]


@pytest.fixture(scope="module")
def activations() -> dict[str, dict[str, Any]]:
    """What our Keras model computes in each of the layers, summarised as the reference is."""
    row = BACKBONES["EfficientNetLite0"]
    model = build(row, "imagenet", row.preprocessing).model
    tapped = keras.Model(model.input, {name: model.get_layer(name).output for name in LAYERS})
    found = tapped(independent.image()[None].astype(np.float32), training=False)
    return {name: independent.summary(np.asarray(found[name])[0]) for name in LAYERS}


@pytest.mark.parametrize("layer", LAYERS)
def test_layer_equals_the_reference(activations: dict[str, dict[str, Any]], layer: str) -> None:
    """Shape, mean, deviation and sixteen values of the layer are PyTorch's."""
    found, expected = activations[layer], LAYERS[layer]
    assert found["shape"] == expected["shape"]
    tolerance = 1e-5 * expected["std"]
    assert found["mean"] == pytest.approx(expected["mean"], rel=1e-5, abs=tolerance)
    assert found["std"] == pytest.approx(expected["std"], rel=1e-5)
    np.testing.assert_allclose(found["samples"], expected["samples"], rtol=1e-4, atol=10 * tolerance)


def test_reference_covers_the_whole_network() -> None:
    """Every activation, projection and sum of the sixteen blocks is held, from the stem to the classifier."""
    row = BACKBONES["EfficientNetLite0"]
    model = build(row, "random", row.preprocessing).model
    kinds = ("_activation", "_project_bn", "_add")
    assert set(LAYERS) == {layer.name for layer in model.layers if layer.name.endswith(kinds)} | {
        "avg_pool",
        "predictions",
    }
