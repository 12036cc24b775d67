"""KerasHub's transformers as a service: what HTTP answers for a block is what KerasHub's own layers compute."""

from __future__ import annotations

import json
from pathlib import Path

import keras

from exporter.export import export
from exporter.recipe.reading import read_recipe
from tests.e2e.processes import Gateway, ModelServer
from tests.transformer_models import FAMILIES, entry, saved, served_errors

TOLERANCE = 1e-4
VERIFIED = "dinov3"
"""The one that the exporter compares with Keras as well, as every export does; the others spare the seconds."""


def test_every_family_answers_as_kerashub(tmp_path: Path, directory: Path) -> None:
    """The class token or average of a block, a map of patches, and the joint space, each from a preset's folder."""
    backbones = {name: saved(name, tmp_path / name) for name in FAMILIES}
    recipe = {"models": [entry(name, f"keras_hub:{name}") for name in FAMILIES]}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")  # JSON is YAML
    for model in read_recipe(tmp_path / "recipe.yaml").models:
        export(model, tmp_path / "models", verified=model.name == VERIFIED)
    server = ModelServer(directory, tmp_path / "models")
    gateway = Gateway(directory, server.address, ",".join(FAMILIES))
    try:
        server.start()
        gateway.start()
        with gateway.client() as client:
            errors = {name: max(served_errors(client, name, backbones[name]).values()) for name in FAMILIES}
    finally:
        gateway.destroy()
        server.destroy()
        keras.utils.clear_session()
    assert {name: error for name, error in errors.items() if error > TOLERANCE} == {}
