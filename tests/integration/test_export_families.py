"""One backbone for each way of scaling and each kind of layer that freezing must cope with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.exported_models import export

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


@pytest.mark.timeout(600)
def test_every_family_is_exported_and_verified(tmp_path: Path) -> None:
    """Each passes its own verification, on an input that is not square, and without its classifier."""
    entries = "".join(ENTRY.format(name=name, layer=layer) for name, layer in LAYERS.items())
    (tmp_path / "recipe.yaml").write_text(f"models:{entries}", encoding="utf-8")
    done = export(tmp_path / "recipe.yaml", tmp_path / "models", timeout=500)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(LAYERS)
    for name in LAYERS:
        manifest = json.loads((tmp_path / "models" / name / "1" / "assets.extra" / "manifest.json").read_bytes())
        assert (manifest["input"]["height"], manifest["input"]["width"]) == (64, 96)
        mean, peak, feature_map = (output["shape"] for output in manifest["outputs"])
        assert mean == peak == feature_map[-1:]


def test_one_model_of_a_recipe_can_be_picked(tmp_path: Path) -> None:
    """`--model` leaves the recipe's other models alone."""
    entries = "".join(ENTRY.format(name=name, layer=LAYERS[name]) for name in ("ResNet50", "MobileNetV2"))
    (tmp_path / "recipe.yaml").write_text(f"models:{entries}", encoding="utf-8")
    assert export(tmp_path / "recipe.yaml", tmp_path / "models", "--model", "MobileNetV2").returncode == 0
    assert [path.name for path in (tmp_path / "models").iterdir() if path.is_dir()] == ["MobileNetV2"]
