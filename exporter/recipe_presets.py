"""Presets of a recipe: one word, `compat`, for all that makes vectors agree with those of another system.

A preset is laid into the file's tree before anything is read, so whatever follows sees the keys as if they had been
written out. What a preset says cannot be said otherwise beside it: vectors that agree in all but one respect are of no
use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from exporter.located import Located
from exporter.strictness import Checker, shown

KEY = "compat"

_OPEN = frozenset({"weights"})
"""What a preset proposes and the user may have otherwise."""

PRESETS: Mapping[str, Mapping[str, Any]] = {
    # Weaviate's container i2v-keras: keras.utils.load_img(target_size=(224, 224)), which resizes to the nearest pixel
    # and turns nothing, then preprocess_input and ResNet50's layer avg_pool. Said by the layer before it, so that
    # weights without the classifier fit too.
    "i2v-keras": {
        "backbone": "ResNet50",
        "weights": "imagenet",
        "input": {
            "size": 224,
            "resize": "squash",
            "interpolation": "nearest",
            "crop": "none",
            "exif_orientation": False,
            "jpeg_draft": False,
            "scaling": "caffe",
        },
        "outputs": [{"name": "avg_pool", "layer": "conv5_block3_out", "pooling": "avg", "normalize": "none"}],
        "precision": "float32",
    },
}


def expanded(check: Checker, tree: Located) -> Located:
    """Return a recipe's tree with every preset written out; what a preset says stands at the line of its name."""
    models = tree.value.get("models") if isinstance(tree.value, dict) else None
    if models is None or not isinstance(models.value, list):
        return tree
    written = replace(models, value=[_expanded(check, model) for model in models.value])
    return replace(tree, value={**tree.value, "models": written})


def _expanded(check: Checker, model: Located) -> Located:
    if not isinstance(model.value, dict) or KEY not in model.value:
        return model
    at = model.value[KEY]
    name = check.choice(at, list(PRESETS), next(iter(PRESETS)))
    keys = dict(model.value)
    for key, value in PRESETS[name].items():
        given = keys.get(key)
        if given is None or key not in _OPEN:
            keys[key] = _laid(check, at, given, value)
    return replace(model, value=keys)


def _laid(check: Checker, preset: Located, given: Located | None, value: Any) -> Located:  # noqa: ANN401, any YAML
    """Lay a preset's value over what the file says, and note where the two differ."""
    own = _located(value, preset)
    if given is None:
        return own
    if isinstance(value, dict) and isinstance(given.value, dict):
        both = {key: _laid(check, preset, given.value.get(key), one) for key, one in value.items()}
        return replace(given, value={**given.value, **both})
    if _plain(given) != value:
        key = given.path.rpartition(".")[2]
        expected = f"{key} left out" if isinstance(value, list | dict) else f"{key}: {_yaml(value)}, or none"
        check.note(
            given, f"expected {expected} beside {KEY}: {preset.value}, which fixes it. Received: {shown(given)}."
        )
        return own
    return given


def _located(value: Any, at: Located) -> Located:  # noqa: ANN401, any YAML
    if isinstance(value, dict):
        value = {key: _located(one, at) for key, one in value.items()}
    elif isinstance(value, list):
        value = [_located(one, at) for one in value]
    return replace(at, value=value)


def _yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _plain(at: Located) -> object:
    if isinstance(at.value, dict):
        return {key: _plain(one) for key, one in at.value.items()}
    return [_plain(one) for one in at.value] if isinstance(at.value, list) else at.value
