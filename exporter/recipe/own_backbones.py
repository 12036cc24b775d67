"""The user's own backbones: a `.keras` file, a function that returns a model, a KerasHub preset.

They are recognised by their spelling and described without TensorFlow.
"""

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

KERAS_FILE = ".keras"
FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
PRESET_PREFIX = "keras_hub:"
PRESET = re.compile(rf"{PRESET_PREFIX}.+")
_SIZE = 224
_MOST_CONFIG_BYTES = 64 << 20


def is_own(text: str) -> bool:
    """Whether a backbone is spelt as one of the user's own."""
    return text.endswith(KERAS_FILE) or FUNCTION.fullmatch(text) is not None or PRESET.fullmatch(text) is not None


def own_size(text: str) -> tuple[int, int]:
    """Return the height and width in pixels of an own model's input; 224 where the file does not say it."""
    if not text.endswith(KERAS_FILE):
        return _SIZE, _SIZE
    try:
        with zipfile.ZipFile(Path(text)) as archive, archive.open("config.json") as member:
            # Whatever size the archive claims: a megabyte of it can inflate to a gigabyte.
            config = json.loads(member.read(_MOST_CONFIG_BYTES))
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, RecursionError, NotImplementedError, RuntimeError):
        return _SIZE, _SIZE  # building the model reports what is wrong with the file
    shape = next(_input_shapes(config), [None, None, None, None])
    height, width = [*shape, None, None, None][1:3]
    return height or _SIZE, width or _SIZE


def _input_shapes(config: object) -> Iterator[list[int | None]]:
    """Yield the shapes of the input layers in a saved model's configuration."""
    if isinstance(config, dict):
        if config.get("class_name") == "InputLayer":
            inner = config.get("config", {})
            yield inner.get("batch_shape") or inner.get("batch_input_shape") or []
        for value in config.values():
            yield from _input_shapes(value)
    elif isinstance(config, list):
        for value in config:
            yield from _input_shapes(value)
