"""Presets of recipes: one word, `compat`, for every key that makes vectors agree with those of another system.

A preset is written into the file's data before it is validated. The file must not contradict it, because vectors that
agree in all but one respect are useless.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from exporter.recipe.yaml_tree import Loc, YamlTree, shown

KEY = "compat"
_FREE = ("weights",)
"""Keys of presets that the file may override."""

PRESETS: Mapping[str, Mapping[str, Any]] = {
    # Weaviate's container i2v-keras: keras.utils.load_img(target_size=(224, 224)), which resizes to the nearest pixel
    # and ignores EXIF, then preprocess_input and ResNet50's layer avg_pool. Named by the layer before it, so that
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
            "decode": "exact",
            "scaling": "caffe",
        },
        "outputs": [{"name": "avg_pool", "layer": "conv5_block3_out", "pooling": "avg", "normalize": "none"}],
        "precision": "float32",
    },
}


def write_out_presets(tree: YamlTree) -> None:
    """Write out the preset of every model, at the place of its name, and note where the file contradicts it."""
    models = tree.value(("models",))
    for index, model in enumerate(models if isinstance(models, list) else []):
        if isinstance(model, dict) and KEY in model:
            # An unknown name is reported by the format; another preset lets the rest be checked.
            name = model[KEY] if str(model[KEY]) in PRESETS else next(iter(PRESETS))
            for key, value in PRESETS[name].items():
                if key not in model or key not in _FREE:
                    _write(tree, ("models", index), model, key, value)


def _write(tree: YamlTree, loc: Loc, mapping: dict[str, Any], key: str, value: Any) -> None:  # noqa: ANN401, any YAML
    at = (*loc, key)
    given = mapping.get(key)
    if key not in mapping:
        tree.places[at] = tree.place((*loc[:2], KEY))
    elif isinstance(value, dict) and isinstance(given, dict):
        for inner, one in value.items():
            _write(tree, at, given, inner, one)
        return
    elif given != value:
        written = str(value).lower() if isinstance(value, bool) else value
        expected = f"{key} left out" if isinstance(value, list | dict) else f"{key}: {written}, or none"
        name = tree.value((*loc[:2], KEY))
        tree.note(at, f"expected {expected} beside {KEY}: {name}, which fixes it. Received: {shown(given)}.")
    mapping[key] = deepcopy(value)
