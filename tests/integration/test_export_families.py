"""One backbone for each way of scaling and each kind of layer that freezing must cope with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from exporter.head.embedding import whole_head
from exporter.head.slicing import cut
from exporter.models.building import Built
from exporter.recipe.backbones import BACKBONES
from exporter.recipe.preprocessing import input_spec
from exporter.recipe.resolved import ModelRecipe, OutputRecipe
from exporter.savedmodel.freezing import freeze
from exporter.verify.sample_images import sample_pixels
from tests.exported_models import export
from tests.unit.exporter.small_models import token_model

ENTRY = """
  - name: {name}
    backbone: {name}
    weights: random
    input: {{size: [64, 96]}}
    outputs:
      - {{name: mean, layer: {layer}, pooling: avg}}
      - {{name: peak, layer: {layer}, pooling: max}}
      - {{name: map, layer: {layer}, pooling: none}}
"""
#                                                        what is special about it
LAYERS = {
    "ResNet50": "conv2_block3_out",                    # caffe scaling: BGR
    "DenseNet121": "conv3_block2_concat",              # torch scaling; inside a dense block
    "MobileNetV2": "block_6_project_BN",               # tf scaling
    "MobileNetV3Small": "expanded_conv_5_add",         # scaling in the backbone; hard swish, squeeze and excite
    "ConvNeXtTiny": "convnext_tiny_stage_0_block_0_identity",  # grouped convolutions, which Keras wraps for XLA
}  # fmt: skip


PAPERS = """
models:
  - name: alexnet
    backbone: AlexNet
    weights: random
    input: {size: [80, 96]}
    include_top: true
    outputs:
      - {name: pool5, layer: pool5, pooling: flatten}
      - {name: fc7, layer: fc7, pooling: none}
  - name: zfnet
    backbone: ZFNet
    weights: random
    input: {size: [80, 96]}
    outputs:
      - {name: conv5, layer: conv5, pooling: max}
      - {name: pool5, layer: pool5}
  - name: googlenet
    backbone: GoogLeNet
    weights: random
    input: {size: [80, 96]}
    outputs:
      - {name: middle, layer: inception_4a}
      - {name: top, layer: inception_5b}
  - name: tokens
    backbone: tests.unit.exporter.small_models:token_model
    input: {size: 8, scaling: tf}
    outputs:
      - {name: class, layer: encoded, pooling: cls, normalize: l2}
      - {name: mean, layer: encoded}
      - {name: all, layer: encoded, pooling: none}
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the models of both recipes, each of which has passed its own verification; one process makes them."""
    folder = tmp_path_factory.mktemp("families")
    entries = "".join(ENTRY.format(name=name, layer=layer) for name, layer in LAYERS.items())
    (folder / "recipe.yaml").write_text(f"{PAPERS}{entries}", encoding="utf-8")
    done = export(folder / "recipe.yaml", folder / "models", timeout=1000)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        "alexnet",
        "zfnet",
        "googlenet",
        "tokens",
        *LAYERS,
    ]
    return folder / "models"


@pytest.mark.timeout(1200)
def test_every_family_is_exported_and_verified(exported: Path) -> None:
    """On an input that is not square, and without its classifier."""
    for name in LAYERS:
        manifest = _manifest(exported / name)
        assert (manifest["input"]["height"], manifest["input"]["width"]) == (64, 96)
        mean, peak, feature_map = (output["shape"] for output in manifest["outputs"])
        assert mean == peak == feature_map[-1:]


@pytest.mark.timeout(1200)
def test_architectures_of_papers_and_token_models_are_exported_and_verified(exported: Path) -> None:
    """AlexNet with its classifier's famous fc7, ZF Net and GoogLeNet; and a function's model with a class token."""
    shapes = {
        name: [(output["name"], output["shape"]) for output in _manifest(exported / name)["outputs"]]
        for name in ("alexnet", "zfnet", "googlenet", "tokens")
    }
    assert shapes == {
        "alexnet": [("pool5", [1 * 1 * 256]), ("fc7", [4096])],
        "zfnet": [("conv5", [256]), ("pool5", [256])],
        "googlenet": [("middle", [512]), ("top", [1024])],
        "tokens": [("class", [6]), ("mean", [6]), ("all", [5, 6])],
    }


def _manifest(model: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((model / "1" / "assets.extra" / "manifest.json").read_bytes())
    return found


def test_class_token_is_the_first(tmp_path: Path) -> None:
    """Pooling `cls` gives the token that the model put before those of the patches, not a mean of all."""
    pixels = input_spec(8, 8, shortest_side=9)
    outputs = (OutputRecipe("class", "encoded", "cls"), OutputRecipe("all", "encoded", "none"))
    built = Built(BACKBONES["MobileNet"], token_model(), "own", "made for a test")
    slice_ = cut(built, ModelRecipe("tokens", "MobileNet", "random", pixels, outputs, "all"))
    images = sample_pixels(8, 8)
    frozen = freeze(slice_, whole_head({}))
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.import_graph_def(frozen.definition, name="")
        given = session.run({name: f"{node}:0" for name, node in frozen.outputs.items()}, {f"{frozen.input}:0": images})
    np.testing.assert_array_equal(given["class"], given["all"][:, 0])
    assert not np.allclose(given["class"], given["all"].mean(axis=1))


def test_one_model_of_a_recipe_can_be_picked(tmp_path: Path) -> None:
    """`--model` leaves the recipe's other models alone."""
    (tmp_path / "recipe.yaml").write_text(PAPERS, encoding="utf-8")
    assert export(tmp_path / "recipe.yaml", tmp_path / "models", "--model", "tokens", "--no-verify").returncode == 0
    assert [path.name for path in (tmp_path / "models").iterdir() if path.is_dir()] == ["tokens"]
