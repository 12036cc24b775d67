"""Both towers of a tiny CLIP and a tiny SigLIP, by the real commands: equal to KerasHub, and in one space."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from exporter.models.building import build
from exporter.recipe.backbones import find_backbone
from exporter.recipe.preset_tokens import preset_tokens
from exporter.savedmodel.saved_model import loaded
from exporter.verify.checks import check_tokenizer
from microtome.tokenization import FILE, Tokenizer, unpacked
from modelserver.batching.limits import read_batching
from modelserver.config.options import Options
from modelserver.engines.openvino_engine import OpenVinoEngine
from modelserver.engines.openvino_runtime import OpenVinoSettings
from modelserver.engines.parallelism import SessionSettings
from modelserver.engines.tensorflow_engine import TensorFlowEngine
from modelserver.errors import InvalidArgument, ServingError
from modelserver.metrics import Metrics
from modelserver.models.loading import Loader, warm_up
from tests.exported_models import exporter_here
from tests.transformer_models import (
    TOWERS,
    VOCABULARY,
    built,
    image_side,
    image_vectors,
    saved,
    scaled,
    text_vectors,
    tokens_of,
)

EQUAL = 1e-5
TEXTS = ["a photo of a cat", "", "İstanbul 猫 👨‍👩‍👧‍👦 café", "a long text of many words " * 20]


@pytest.fixture(scope="module")
def backbones() -> dict[str, keras.Model]:
    """Return KerasHub's networks, the same as those that were exported."""
    return {name: built(name) for name in TOWERS}


def version(models: Path, name: str) -> Path:
    """Return the directory of a model's first version."""
    return models / name / "1"


def manifest(models: Path, name: str) -> dict[str, Any]:
    """Return its manifest."""
    found: dict[str, Any] = json.loads((version(models, name) / "assets.extra" / "manifest.json").read_bytes())
    return found


def tokenizer(models: Path, name: str) -> Tokenizer:
    """Return a family's tokenizer, from its file."""
    spec = tokens_of(models, name)
    compressed = (version(models, f"{name}_text") / "assets.extra" / FILE).read_bytes()
    return Tokenizer.load(unpacked(compressed, spec.tokenizer), spec)


def token_ids(models: Path, name: str) -> np.ndarray[Any, Any]:
    """Return random token ids, and those of real texts."""
    tokens = tokenizer(models, name)
    noise = np.random.default_rng(3).integers(0, VOCABULARY, (4, tokens.spec.length), np.int32)
    return np.concatenate([noise, np.stack([tokens.ids(text) for text in TEXTS])])


@pytest.mark.parametrize("name", TOWERS)
def test_towers_are_kerashubs(name: str, tower_models: Path, backbones: dict[str, keras.Model]) -> None:
    """Vectors of length one in the joint space, whose products are the whole model's, and a block of the text tower."""
    model, ids = backbones[name], token_ids(tower_models, name)
    side = image_side(model)
    pixels = np.random.default_rng(5).integers(0, 256, (3, side, side, 3), np.uint8)
    with loaded(version(tower_models, f"{name}_text")) as text:
        found = text.run(ids)
    with loaded(version(tower_models, f"{name}_image")) as image:
        images = image.run(pixels, ["projection"])["projection"]
    texts = found["projection"]
    assert np.abs(texts - text_vectors(model, ids)).max() < EQUAL
    assert np.abs(images - image_vectors(name, model, pixels)).max() < EQUAL
    encoder = model.text_encoder
    block = np.asarray(encoder.encoder_layers[0](encoder.embedding(ids))).mean(axis=1)
    assert np.abs(found["block"] - block).max() < EQUAL * np.abs(block).max()
    given = {"images": scaled(name, pixels), "token_ids": keras.ops.convert_to_tensor(ids)}
    logits = np.asarray(model(given)["text_logits"])
    told = manifest(tower_models, f"{name}_image")["similarity"]
    assert told == manifest(tower_models, f"{name}_text")["similarity"]
    assert np.abs(logits - (texts @ images.T * told["scale"] + told["bias"])).max() < EQUAL * told["scale"]
    assert {"clip": "softmax", "siglip": "sigmoid"}[name] == told["activation"]


def test_towers_of_the_same_weights_share_a_space(tower_models: Path, tmp_path: Path) -> None:
    """Equal within a family, whose towers are exported apart; another one where the other tower has other weights."""
    found = {
        f"{name}_{tower}": manifest(tower_models, f"{name}_{tower}") for name in TOWERS for tower in ("image", "text")
    }
    assert {name: (one["family"], one["tower"], one["default_output"]) for name, one in found.items()} == {
        f"{name}_{tower}": (name, tower, "projection") for name in TOWERS for tower in ("image", "text")
    }
    spaces = {name: one["space"] for name, one in found.items()}
    assert spaces["clip_image"] == spaces["clip_text"] != spaces["siglip_text"] == spaces["siglip_image"]
    assert len({one["fingerprint"] for one in found.values()}) == 4

    changed = saved("clip", tmp_path / "clip")
    changed.vision_projection.weights[0].assign_add(np.full((16, 8), 0.5, np.float32))
    changed.save_to_preset(str(tmp_path / "clip"))
    tokens = preset_tokens(str(tmp_path / "clip")).spec
    text = build(find_backbone(f"keras_hub:{tmp_path / 'clip'}"), None, tokens, shared=True)
    assert text.space is not None
    assert text.space.identity not in spaces.values()


@pytest.mark.parametrize("engine", [OpenVinoEngine(OpenVinoSettings()), TensorFlowEngine(SessionSettings())])
@pytest.mark.parametrize("name", TOWERS)
def test_model_server_computes_text_and_answers_the_tokenizer(
    name: str, engine: Any, tower_models: Path, backbones: dict[str, keras.Model]
) -> None:
    """Warmed up, proved by its golden vectors, in a batch and alone; a part that is not there is an error."""
    directory = version(tower_models, f"{name}_text")
    loader = Loader([engine], warm_up, read_batching(Options(enable_batching=True)), Metrics())
    done = loader.load(directory)
    model, ids = done.model, token_ids(tower_models, name)
    try:
        assert "it computes the golden vectors" in done.engine
        serving, asked = model.signatures["serving_default"], model.signatures["tokenizer"]
        assert set(serving.inputs) == {"tokens"}
        (vectors,) = model.run({serving.inputs["tokens"].name: ids}, [serving.outputs["projection"].name])
        assert np.abs(vectors - text_vectors(backbones[name], ids)).max() < EQUAL
        query, answer = asked.inputs["query"].name, [asked.outputs["tokenizer"].name]
        (parts,) = model.run({query: np.array([0, 0], np.int32)}, answer)
        assert parts.tolist() == [(directory / "assets.extra" / FILE).read_bytes()] * 2
        (manifests,) = model.run(
            {model.signatures["manifest"].inputs["query"].name: np.array([7], np.int32)},
            [model.signatures["manifest"].outputs["manifest"].name],
        )
        assert json.loads(manifests[0]) == manifest(tower_models, f"{name}_text")
        with pytest.raises((InvalidArgument, ServingError), match=r"= 1 is not in \[0, 1\)"):
            model.run({query: np.array([0, 1], np.int32)}, answer)
    finally:
        model.close()


def test_commands_speak_of_text(tower_models: Path) -> None:
    """Inspect, verify, layers and graph, with the options that only images have refused in a sentence."""
    directory = str(version(tower_models, "clip_text"))
    said = exporter_here(["inspect", directory]).stdout
    assert (
        "takes       text: 16 tokens of 600, shorter ones filled with 0, A to Z as small letters; tokenizer of" in said
    )
    assert "family      clip, its text tower; space sha256:" in said
    sources = str(tower_models.parent)
    done = exporter_here(["verify", directory, "--sources", sources, "--json"])
    findings = {one["check"]: one["ok"] for one in json.loads(done.stdout)["findings"]}
    assert done.returncode == 0
    assert {"its tokenizer is there", "projection equals Keras on the same token ids"} <= set(findings)
    assert exporter_here(["verify", directory, "--sources", sources, "--images", sources]).stderr.startswith(
        "microtome: Expected no --images for clip_text, which takes text."
    )
    preset = f"keras_hub:{tower_models.parent / 'presets' / 'clip'}"
    layers = json.loads(exporter_here(["layers", preset, "--tower", "text", "--all", "--json"]).stdout)
    block = next(one for one in layers if one["name"].endswith("/encoder_block_0"))
    usual = next(one for one in layers if one["default_cut"])
    assert (usual["name"].rpartition("/")[2], usual["crossing"]) == ("layer_norm", 1)
    assert (block["shape"], block["sees_whole_image"], block["dimension"]) == ([None, 16, 16], True, 16)
    assert block["flops"] == 2 * (4 * 16 * 16**2 + 2 * 16**2 * 16 + 2 * 16 * 16 * 32)
    assert exporter_here(["layers", "ResNet50", "--tower", "text"]).stderr.startswith(
        "microtome: Expected keras_hub:PRESET"
    )


def test_damaged_tokenizer_is_found(tower_models: Path, tmp_path: Path) -> None:
    """By its digest, whatever the file says."""
    shutil.copytree(version(tower_models, "clip_text"), tmp_path / "1")
    (tmp_path / "1" / "assets.extra" / FILE).write_bytes(b"damaged")
    spec = tokens_of(tower_models, "clip")
    with loaded(tmp_path / "1") as found:
        assert not check_tokenizer(found, spec).ok
    with loaded(version(tower_models, "clip_text")) as found:
        assert check_tokenizer(found, spec).ok
        other = replace(spec, tokenizer=replace(spec.tokenizer, sha256="0" * 64))
        assert "Expected the tokenizer of sha256 000" in check_tokenizer(found, other).detail
