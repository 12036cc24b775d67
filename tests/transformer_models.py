"""KerasHub's seven families of vision transformers with random weights, and what their own layers compute.

The numbers come from KerasHub's layers, called one after the other, and not from the networks that the exporter opens.
"""

from __future__ import annotations

import fcntl
import io
import json
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import keras
import keras_hub
import numpy as np
from keras import ops
from PIL import Image
from pydantic import TypeAdapter

from exporter.export import export
from exporter.recipe.reading import read_recipe
from microtome.manifest import TokensSpec
from microtome.tokenization import FILE, Tokenizer, unpacked
from tests.e2e.answers import embed, relative_error, vector

HUB = keras_hub.models
IMAGENET = {"scale": [0.01712475, 0.0175070, 0.01742919], "offset": [-2.117904, -2.0357141, -1.8044444]}
CLIP = {"scale": [0.0146, 0.0150, 0.0142], "offset": [-1.7923, -1.7521, -1.4802], "interpolation": "bicubic"}
HALF = {"scale": 1 / 127.5, "offset": -1.0}


@dataclass(frozen=True)
class Family:
    """A family of transformers.

    Attributes:
        converter: KerasHub's class of image converters, and its arguments without the size.
        build: From the size of everything, tiny or full, to a backbone.
        block: The recipe's name of a block, by its index from 0.
        attention: The recipe's name of the attention's output within a block.
        mlp: The recipe's name of the MLP's output within a block.
        prefix: Tokens before those of the patches.
    """

    converter: tuple[str, Mapping[str, Any]]
    build: Callable[[Sizes], keras.Model]
    block: str
    attention: str
    mlp: str
    prefix: int


@dataclass(frozen=True)
class Sizes:
    """The size of a transformer: of the image, its patches and its layers."""

    image: int = 32
    patch: int = 8
    blocks: int = 2
    width: int = 16
    heads: int = 2
    hidden: int = 32


TINY = Sizes()

TOKENIZERS = Path(__file__).with_name("assets") / "tokens"
"""Small vocabularies, a folder for each family of towers, made by `tests/assets/make_tokens.py`."""
VOCABULARY = 600
LENGTH = 16


def _text(kind: Any, sizes: Sizes) -> keras.Model:
    return kind(
        vocabulary_size=VOCABULARY, embedding_dim=sizes.width, hidden_dim=sizes.width, num_layers=1,
        num_heads=sizes.heads, intermediate_dim=sizes.hidden, max_sequence_length=LENGTH,
    )  # fmt: skip


def _vision(sizes: Sizes) -> dict[str, Any]:
    return {
        "patch_size": sizes.patch, "hidden_dim": sizes.width, "num_layers": sizes.blocks, "num_heads": sizes.heads,
        "intermediate_dim": sizes.hidden, "image_shape": (sizes.image, sizes.image, 3),
    }  # fmt: skip


def _vit(sizes: Sizes) -> keras.Model:
    arguments = _vision(sizes)
    return HUB.ViTBackbone(mlp_dim=arguments.pop("intermediate_dim"), **arguments)


def _dinov2(sizes: Sizes) -> keras.Model:
    shape = (2 * sizes.image, 2 * sizes.image, 3)
    return HUB.DINOV2Backbone(**_vision(sizes), num_register_tokens=2, position_embedding_shape=shape)


def _swin(sizes: Sizes) -> keras.Model:
    return HUB.SwinTransformerBackbone(
        image_shape=(2 * sizes.image, 2 * sizes.image, 3),
        patch_size=sizes.patch // 2,
        embed_dim=sizes.width // 2,
        depths=[2] * sizes.blocks if sizes == TINY else [2, 2, 6, 2],
        num_heads=[sizes.heads // 2 * 2**stage for stage in range(sizes.blocks)],
        window_size=4 if sizes == TINY else 7,
    )


def _clip(sizes: Sizes) -> keras.Model:
    return HUB.CLIPBackbone(HUB.CLIPVisionEncoder(**_vision(sizes)), _text(HUB.CLIPTextEncoder, sizes), 8)


def _siglip(sizes: Sizes) -> keras.Model:
    return HUB.SigLIPBackbone(HUB.SigLIPVisionEncoder(**_vision(sizes)), _text(HUB.SigLIPTextEncoder, sizes))


def _siglip2(sizes: Sizes) -> keras.Model:
    vision = HUB.SigLIPVisionEncoder(**_vision(sizes), intermediate_activation="gelu_approximate")
    return HUB.SigLIPBackbone(vision, _text(HUB.SigLIPTextEncoder, sizes))


FAMILIES = {
    "vit": Family(
        ("ViTImageConverter", HALF), _vit, "transformer_block_{1}", "mha", "mlp", 1
    ),
    "dinov2": Family(("DINOV2ImageConverter", IMAGENET), _dinov2, "layers_{0}", "attention", "mlp", 3),
    "dinov3": Family(
        ("DINOV3ImageConverter", {**IMAGENET, "crop_to_aspect_ratio": False}),
        lambda sizes: HUB.DINOV3Backbone(**_vision(sizes), num_register_tokens=4),
        "layers_{0}", "attention", "mlp", 5,
    ),
    "siglip": Family(
        ("SigLIPImageConverter", {**HALF, "crop_to_aspect_ratio": False}),
        _siglip, "encoder_block_{0}", "self_attn", "mlp", 0,
    ),
    "siglip2": Family(
        ("SigLIPImageConverter", {**HALF, "crop_to_aspect_ratio": False}),
        _siglip2, "encoder_block_{0}", "self_attn", "mlp", 0,
    ),
    "clip": Family(("CLIPImageConverter", CLIP), _clip, "encoder_block_{0}", "attention", "dense_2", 1),
    "swin": Family(("SwinTransformerImageConverter", IMAGENET), _swin, "stage_{0}/blocks_1", "attn", "mlp", 0),
}  # fmt: skip


def built(name: str, sizes: Sizes = TINY) -> keras.Model:
    """Return a family's backbone with random weights, the same in each run; biases and scales are random too."""
    keras.utils.set_random_seed(7)
    warnings.filterwarnings("ignore", message=".*mask")  # Swin passes windows' mask by that name
    model = FAMILIES[name].build(sizes)
    numbers = np.random.default_rng(7)
    for weight in model.trainable_weights:
        if len(weight.shape) == 1:  # zeros and ones by default, which hide a bias or a scale that is left out
            weight.assign(np.asarray(weight) + numbers.normal(0, 0.1, weight.shape))
    return model


def saved(name: str, folder: Path, sizes: Sizes = TINY) -> keras.Model:
    """Save a family's backbone as a preset with its image converter, and return the backbone."""
    model = built(name, sizes)
    model.save_to_preset(str(folder))
    kind, arguments = FAMILIES[name].converter
    side = image_side(model)
    getattr(keras_hub.layers, kind)(image_size=(side, side), **arguments).save_to_preset(str(folder))
    if (TOKENIZERS / name).is_dir():
        shutil.copytree(TOKENIZERS / name, folder, dirs_exist_ok=True)
    return model


def image_side(model: keras.Model) -> int:
    """Return the height and width of a backbone's images."""
    return int(next(tensor for tensor in model.inputs if len(tensor.shape) == 4).shape[1])


def scaled(name: str, pixels: np.ndarray[Any, Any]) -> Any:
    """Scale 0..255 pixels as the family's image converter does, without resizing."""
    kind, arguments = FAMILIES[name].converter
    return getattr(keras_hub.layers, kind)(image_size=None, **arguments)(pixels.astype("float32"))


def computed(model: keras.Model, images: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Return the tokens after each block, and what the first block's attention and MLP give, by KerasHub's layers.

    Args:
        model: A backbone of `built`.
        images: float32 [N, H, W, 3], scaled.

    Returns:
        By index of the block from 0 (of the stage's last block, of Swin), `attention`, `mlp`, and `joint` for towers.
    """
    name = type(model).__name__
    if name == "SwinTransformerBackbone":
        return _computed_by_swin(model, images)
    vision = getattr(model, "vision_encoder", model)
    found: dict[str, Any] = {}
    if name == "ViTBackbone":
        x, blocks = vision.layers[1](images), vision.layers[2].encoder_layers
        norms, first, mlps = (blocks[0].layer_norm_1, blocks[0].layer_norm_2), blocks[0].mha, blocks[0].mlp
    elif name.startswith("DINO"):
        x, blocks = vision.embeddings(images), vision.encoder.layers
        norms, first, mlps = (blocks[0].norm1, blocks[0].norm2), blocks[0].attention, blocks[0].mlp
    else:
        x, blocks = vision.embedding(images), vision.encoder_layers
        if name == "CLIPBackbone":
            x = vision.pre_layer_norm(x)
            norms, first = (blocks[0].layer_norm_1, blocks[0].layer_norm_2), blocks[0].attention
            mlps = lambda x: blocks[0].dense_2(blocks[0].activation(blocks[0].dense_1(x)))  # noqa: E731
        else:
            norms, first = (blocks[0].layer_norm1, blocks[0].layer_norm2), blocks[0].self_attn
            mlps = blocks[0].mlp
    more: dict[str, Any] = {}
    if name == "DINOV3Backbone":
        more = {"position_embeddings": vision.rope_embedding(images), "num_prefix_tokens": 5}
    given = norms[0](x)
    found["attention"] = first(given, **more) if name.startswith("DINO") else first(given, given)
    attended = found["attention"]
    if name.startswith("DINO"):
        attended = blocks[0].layer_scale1(attended)
    found["mlp"] = mlps(norms[1](ops.add(x, attended)))
    for index, block in enumerate(blocks):
        x = block(x, **more)
        found[str(index)] = x
    if name in ("CLIPBackbone", "SigLIPBackbone"):
        joint = model.get_vision_embeddings(images)
        found["joint"] = joint / ops.norm(joint, axis=-1, keepdims=True)
    return {key: np.asarray(value) for key, value in found.items()}


def _computed_by_swin(model: Any, images: Any) -> dict[str, np.ndarray[Any, Any]]:
    found: dict[str, np.ndarray[Any, Any]] = {}
    x = model.patch_embedding(images)
    for index, stage in enumerate(model.stages):
        for block in stage.blocks:
            x = block(x)
            if block is stage.blocks[1]:
                found[str(index)] = np.asarray(x)
        height, width = stage.input_resolution
        x = x if stage.downsample is None else stage.downsample(x, H=height, W=width)
    return found


def text_vectors(model: keras.Model, tokens: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return KerasHub's vectors of token ids, int32 [N, LENGTH], in the joint space: float32 [N, D] of length one."""
    found = model.get_text_embeddings(tokens)
    return np.asarray(found / ops.norm(found, axis=-1, keepdims=True))


def image_vectors(name: str, model: keras.Model, pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return KerasHub's vectors of images, uint8 [N, H, W, 3] of the model's size, in the joint space."""
    found = model.get_vision_embeddings(scaled(name, pixels))
    return np.asarray(found / ops.norm(found, axis=-1, keepdims=True))


TOWERS = ("clip", "siglip")


def tower_entries(name: str, backbone: str) -> list[dict[str, Any]]:
    """Return both towers of a family as models of a recipe: NAME_image and NAME_text."""
    joint = {"name": "projection", "layer": "projection", "pooling": "none"}
    block = {"name": "block", "layer": "encoder_block_0"}
    shared = {"backbone": backbone, "family": name, "outputs": [block, joint]}
    return [{"name": f"{name}_{tower}", "tower": tower, **shared} for tower in ("image", "text")]


def exported_towers(folder: Path) -> Path:
    """Export both towers of tiny CLIP and SigLIP, unverified, once for all test workers; return the models directory.

    Models are clip_image, clip_text, siglip_image and siglip_text, of the families clip and siglip. Presets lie in
    `presets` beside it, with `recipe.yaml`; `built` makes the same networks again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    models = folder / "models"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            for name in TOWERS:
                saved(name, folder / "presets" / name)
            entries = [one for name in TOWERS for one in tower_entries(name, f"keras_hub:presets/{name}")]
            (folder / "recipe.yaml").write_text(json.dumps({"models": entries}), encoding="utf-8")  # JSON is YAML
            for model in read_recipe(folder / "recipe.yaml").models:
                export(model, models, verified=False)
            (folder / "done").touch()
    return models


def tokens_of(models: Path, name: str) -> TokensSpec:
    """Return what the manifest of an exported text tower says of its input."""
    found = json.loads((models / f"{name}_text" / "1" / "assets.extra" / "manifest.json").read_bytes())["input"]
    return TypeAdapter(TokensSpec).validate_python(found)


def tokenizer_of(models: Path, name: str) -> Tokenizer:
    """Return a family's tokenizer, from the file of its exported text tower."""
    spec = tokens_of(models, name)
    compressed = (models / f"{name}_text" / "1" / "assets.extra" / FILE).read_bytes()
    return Tokenizer.load(unpacked(compressed, spec.tokenizer), spec)


def entry(name: str, backbone: str) -> dict[str, Any]:
    """Return a model of a recipe: the first block's class token or average and its map, and the joint space."""
    family = FAMILIES[name]
    block = family.block.format(0, 1)
    outputs = [{"name": "block", "layer": block, "pooling": "cls" if family.prefix else "avg"}]
    outputs.append({"name": "map", "layer": block, "pooling": "map"})
    if name.startswith(("clip", "siglip")):
        outputs.append({"name": "joint", "layer": "projection", "pooling": "none"})
    return {"name": name, "backbone": backbone, "outputs": outputs}


def served_errors(client: httpx.Client, name: str, backbone: keras.Model) -> dict[str, float]:
    """Ask a gateway for the outputs of `entry`, and return the largest relative error of each against KerasHub."""
    side, prefix = image_side(backbone), FAMILIES[name].prefix
    pixels = np.random.default_rng(5).integers(0, 256, (side, side, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")  # of the model's own size: nothing is resized or cut
    expected = computed(backbone, scaled(name, pixels[None]))
    tokens = expected["0"][0]
    wanted = {"block": tokens[0] if prefix else tokens.mean(axis=0), "map": tokens[prefix:]}
    if "joint" in expected:
        wanted["joint"] = expected["joint"][0]
    answer = embed(client, file.getvalue(), model=name, output=list(wanted))
    assert [one["output"] for one in answer["embeddings"]] == list(wanted)
    found = {output: vector(answer, index) for index, output in enumerate(wanted)}
    return {output: relative_error(found[output].ravel(), np.ravel(value)) for output, value in wanted.items()}
