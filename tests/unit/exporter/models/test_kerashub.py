"""KerasHub's vision transformers as backbones: every block, attention and MLP, equal to KerasHub's own layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf

from exporter.errors import CutError, ImpossibleModel, UnknownBackbone
from exporter.graph.cut_points import cut_points, default_cut
from exporter.head.embedding import whole_head
from exporter.head.slicing import Slice, cut
from exporter.models.building import Built, build
from exporter.models.kerashub import text_tower
from exporter.recipe.backbones import find_backbone
from exporter.recipe.own_backbones import preset_input
from exporter.recipe.preset_tokens import preset_tokens
from exporter.recipe.resolved import ModelRecipe, OutputRecipe
from exporter.savedmodel.freezing import freeze, frozen_graph
from exporter.split.blocks import split, write_block
from exporter.split.pipeline import prove
from exporter.sweep.candidates import cuts
from exporter.verify.sample_images import cosines
from microtome.golden import golden_tokens
from tests.transformer_models import FAMILIES, TINY, computed, image_side, saved, scaled, text_vectors

EQUAL = 1e-4
Array = np.ndarray[Any, Any]
Preset = tuple[keras.Model, Built]
Presets = Callable[[str], Preset]


@pytest.fixture(scope="module")
def presets(tmp_path_factory: pytest.TempPathFactory) -> Presets:
    """Return KerasHub's backbone of a family, and the exporter's of the preset that it was saved as."""
    known: dict[str, Preset] = {}

    def preset(name: str) -> Preset:
        if name not in known:
            folder = tmp_path_factory.mktemp("presets") / name
            model = saved(name, folder)
            row = find_backbone(f"keras_hub:{folder}")
            known[name] = model, build(row, None, row.preprocessing)
        return known[name]

    return preset


def sliced(built: Built, *outputs: OutputRecipe) -> Slice:
    """Cut a backbone at some outputs."""
    return cut(
        built, ModelRecipe(built.row.name, built.row.name, "own", built.row.preprocessing, outputs, outputs[-1].name)
    )


def answers(slice_: Slice, pixels: Array) -> dict[str, Array]:
    """Return what the cut layers give for 0..255 pixels, by output."""
    found = slice_.model(pixels.astype(np.float32), training=False)
    return {one.recipe.name: np.asarray(found[one.recipe.cuts[0]]) for one in slice_.outputs}


def pixels_for(model: keras.Model) -> Array:
    """Return three images of noise in the model's size."""
    return np.random.default_rng(3).integers(0, 256, (3, image_side(model), image_side(model), 3), np.uint8)


def error(actual: Array, expected: Array) -> float:
    """Return the largest difference relative to the largest number."""
    assert actual.shape == expected.shape
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("name", FAMILIES)
def test_blocks_attentions_and_mlps_are_those_of_kerashub(name: str, presets: Presets) -> None:
    """Tokens after each block, what the first block's attention and MLP give, and the vector of the joint space."""
    family, (model, built) = FAMILIES[name], presets(name)
    first = family.block.format(0, 1)
    layers = {str(index): family.block.format(index, index + 1) for index in range(TINY.blocks)}
    layers |= {"attention": f"{first}/{family.attention}", "mlp": f"{first}/{family.mlp}", "joint": "projection"}
    pixels = pixels_for(model)
    expected = computed(model, scaled(name, pixels))
    outputs = [OutputRecipe(f"o{key}", layers[key], "none") for key in expected]
    found = answers(sliced(built, *outputs), pixels)
    assert {key: error(found[f"o{key}"], value) < EQUAL for key, value in expected.items()} == dict.fromkeys(
        expected, True
    )
    assert len(expected) >= TINY.blocks


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.prefix])
def test_poolings_tell_patches_from_other_tokens(name: str, presets: Presets) -> None:
    """The average and the map are of the patches alone; the class token is the first."""
    family, (model, built) = FAMILIES[name], presets(name)
    pixels, layer = pixels_for(model), family.block.format(0, 1)
    (tokens,) = answers(sliced(built, OutputRecipe("t", layer, "none")), pixels).values()
    slice_ = sliced(
        built, OutputRecipe("map", layer, "map"), OutputRecipe("cls", layer, "cls"), OutputRecipe("avg", layer)
    )
    assert [output.pooled for output in slice_.outputs] == [(4, 4, 16), (16,), (16,)]
    found = answers(slice_, pixels)
    assert np.array_equal(found["map"].reshape(3, 16, 16), tokens[:, family.prefix :])
    assert np.array_equal(found["avg"], found["map"])  # which the head averages
    assert np.array_equal(found["cls"], tokens)  # of which the head takes the first


@pytest.mark.parametrize("name", ["siglip", "swin"])
def test_network_without_class_token_refuses_cls(name: str, presets: Presets) -> None:
    """It would be the corner's patch."""
    with pytest.raises(CutError, match=r"Expected a network with a class token .* Say pooling: avg"):
        sliced(presets(name)[1], OutputRecipe("c", FAMILIES[name].block.format(0, 1), "cls"))


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "swin"])
def test_each_block_costs_its_own(name: str, presets: Presets) -> None:
    """Weights and operations of a block against the formula of transformers."""
    family, (_, built) = FAMILIES[name], presets(name)
    points = {
        point.ref.rpartition("/")[2] if family.block.count("/") == 0 else point.ref: point
        for point in cut_points(built.model)
    }
    before, after = (points[family.block.format(index, index + 1)] for index in range(TINY.blocks))
    assert before.flops is not None
    assert after.flops is not None
    tokens, width, hidden = (TINY.image // TINY.patch) ** 2 + family.prefix, TINY.width, TINY.hidden
    attention = 4 * 2 * tokens * width**2 + 2 * 2 * tokens**2 * width
    assert after.flops - before.flops == attention + 2 * 2 * tokens * width * hidden
    scales = 2 * width if name.startswith("dino") else 0
    # DINOv3 has no biases here but by default: of queries, keys, values, the projection and the MLP.
    assert (
        after.params - before.params
        == 4 * (width**2 + width) + 2 * width * hidden + hidden + width + 4 * width + scales
    )
    patches = 2 * (TINY.image // TINY.patch) ** 2 * TINY.patch**2 * 3 * width
    assert before.flops == patches + after.flops - before.flops


def test_windowed_attention_costs_its_windows(presets: Presets) -> None:
    """Attention in windows of 4x4 of a map of 16x16, also where windows are shifted."""
    points = {point.ref: point.flops or 0 for point in cut_points(presets("swin")[1].model)}
    tokens, width, window = 256, 8, 16
    block = 8 * tokens * width**2 + 4 * tokens * window * width + 2 * 2 * tokens * width * 4 * width
    for first, second in (("patch_embedding/norm", "stage_0/blocks_0"), ("stage_0/blocks_0", "stage_0/blocks_1")):
        assert points[second] - points[first] == block


@pytest.mark.parametrize("name", FAMILIES)
def test_usual_cut_is_the_last_normalised_tokens(name: str, presets: Presets) -> None:
    """A single tensor crosses after each block, and the last one is what a network ends in before its head."""
    points = cut_points(presets(name)[1].model)
    usual = default_cut(points)
    assert usual is not None
    assert (usual.kind, len(usual.shape)) == ("LayerNormalization", 3)
    family = FAMILIES[name]
    ends = [point.ref.endswith(family.block.format(0, 1)) for point in points if point.crossing == 1]
    assert sum(ends) == 1


@pytest.mark.parametrize(
    ("name", "poolings"), [("vit", {"avg", "cls"}), ("siglip", {"avg", "none"}), ("swin", {"avg"})]
)
def test_sweep_tries_class_tokens_where_there_are_some(name: str, poolings: set[str], presets: Presets) -> None:
    """Every output can be computed: a candidate's tensor is the one that its pooling takes."""
    _, built = presets(name)
    found = cuts(built, built.row.preprocessing, ("avg",), ())
    assert {output.recipe.pooling for output in found.slice_.outputs if not output.recipe.more_layers} == poolings
    assert all(set(output.recipe.cuts) <= set(found.slice_.model.output) for output in found.slice_.outputs)


@pytest.mark.parametrize(
    ("name", "resize", "interpolation"),
    [("vit", "shortest-side", "bilinear"), ("clip", "shortest-side", "bicubic"), ("siglip", "squash", "bilinear")],
)
def test_preset_says_how_images_are_prepared(name: str, resize: str, interpolation: str, presets: Presets) -> None:
    """Size, crop and resizing are in its row; scaling is a layer, so that no recipe has to say it."""
    row = presets(name)[1].row
    assert (row.preprocessing.height, row.preprocessing.resize, row.preprocessing.interpolation, row.scaling) == (
        32, resize, interpolation, "none",
    )  # fmt: skip


def test_another_size_moves_the_positions_or_is_refused(tmp_path: Path, presets: Presets) -> None:
    """DINOv2 interpolates its positions and DINOv3 computes them; those of CLIP are for one size."""
    for name in ("dinov2", "dinov3"):
        folder = tmp_path / name
        saved(name, folder)
        row = find_backbone(f"keras_hub:{folder}")
        model = build(row, None, replace(row.preprocessing, height=64, width=64)).model
        assert model.outputs[0].shape[1] == 64 + FAMILIES[name].prefix
    row = presets("clip")[1].row
    with pytest.raises(Exception, match=r"such as its own 32x32\. Received: 64x64 pixels"):
        build(row, None, replace(row.preprocessing, height=64, width=64))


@pytest.mark.filterwarnings("ignore:.build")  # KerasHub merges patches without building its layers
@pytest.mark.parametrize(
    ("name", "at"), [("swin", "stage_0/blocks_1"), ("clip", "encoder_block_0"), ("dinov3", "layers_0/attention")]
)
def test_parts_are_saved_and_read_back(name: str, at: str, tmp_path: Path, presets: Presets) -> None:
    """KerasHub's layers are read back from their own configuration, which some of them do not write."""
    model, built = presets(name)
    blocks = split(built.model, [at])
    for block in blocks:
        write_block(tmp_path, block)
    images = tf.constant(pixels_for(model), tf.float32)
    assert all(comparison.equal for comparison in prove(built.model, blocks, tmp_path, {"noise": images}))


def test_preset_that_cannot_be_had_names_the_ways_on() -> None:
    """Unknown here, and the same words where a host is not reached."""
    with pytest.raises(UnknownBackbone, match=r"Received: 'no_such_preset'.*save_to_preset.*EfficientNetLite0"):
        find_backbone("keras_hub:no_such_preset")


def test_folder_without_a_converter_leaves_scaling_to_the_recipe(tmp_path: Path) -> None:
    """As `backbone.save_to_preset` alone leaves it."""
    keras_hub.models.ViTBackbone(
        image_shape=(16, 16, 3), patch_size=8, num_layers=1, num_heads=1, hidden_dim=4, mlp_dim=4
    ).save_to_preset(str(tmp_path / "alone"))
    assert preset_input(str(tmp_path / "alone")) is None


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_text_towers_are_cut_at_their_blocks(name: str, presets: Presets) -> None:
    """Tokens after a block, their averages, and the token that the network's own pooling takes."""
    model, images = presets(name)
    row = images.row
    tokens = preset_tokens(row.name.partition(":")[2]).spec
    built = build(row, None, tokens)
    outputs = [OutputRecipe(pooling, "encoder_block_0", pooling) for pooling in ("none", "avg", "cls", "flatten")]
    recipe = ModelRecipe("t", row.name, "own", tokens, (*outputs, OutputRecipe("joint", "projection", "none")), "joint")
    slice_ = cut(built, recipe)
    assert [output.pooled for output in slice_.outputs] == [(16, 16), (16,), (16,), (256,), slice_.outputs[-1].pooled]
    ids = golden_tokens(1, 0, 4, tokens.length, tokens.vocabulary, tokens.pad)
    found = slice_.model(ids, training=False)
    encoder = model.text_encoder
    block = np.asarray(encoder.encoder_layers[0](encoder.embedding(ids)))
    assert error(np.asarray(found[recipe.outputs[0].cuts[0]]), block) < EQUAL
    own = block[np.arange(4), ids.argmax(axis=1)] if name == "clip" else block[:, -1]
    frozen = freeze(slice_, whole_head({}))
    with frozen.session() as run:
        answers_ = run(ids)
    assert error(answers_["cls"], own) < EQUAL
    assert error(answers_["avg"], block.mean(axis=1)) < EQUAL
    assert error(answers_["joint"], text_vectors(model, ids)) < EQUAL
    assert all(output.flops for output in slice_.outputs)
    with frozen_graph(slice_, {}, "bfloat16").session() as run:
        lower = run(ids)
    assert all(cosines(lower[name], vectors).min() > 0.999 for name, vectors in answers_.items())
    with pytest.raises(CutError, match="Expected a layer with a feature map"):
        cut(built, replace(recipe, outputs=(OutputRecipe("map", "encoder_block_0", "map"),)))


def test_backbone_of_images_has_no_text_tower(presets: Presets) -> None:
    """Said of the class, since the preset may be of any name."""
    with pytest.raises(ImpossibleModel, match="Received: ViTBackbone, which has no text tower"):
        text_tower(presets("vit")[0])
