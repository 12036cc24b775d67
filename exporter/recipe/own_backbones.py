"""The user's own backbones: a `.keras` file, a function that returns a model, a KerasHub preset.

They are recognised by their spelling and described without TensorFlow.
"""

import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from exporter.runtime.archives import opened_zip

KERAS_FILE = ".keras"
FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
PRESET_PREFIX = "keras_hub:"
PRESET = re.compile(rf"{PRESET_PREFIX}.+")
LARGEST_CONFIG = 16 << 20
"""Bytes of a saved model's configuration."""

_SIZE = 224


def is_own(text: str) -> bool:
    """Whether a backbone is spelt as one of the user's own."""
    return text.endswith(KERAS_FILE) or FUNCTION.fullmatch(text) is not None or PRESET.fullmatch(text) is not None


def own_size(text: str) -> tuple[int, int]:
    """Return the height and width in pixels of an own model's input; 224 where the file does not say it."""
    if not text.endswith(KERAS_FILE):
        return _SIZE, _SIZE
    try:
        with opened_zip(Path(text)) as archive:
            if archive.getinfo("config.json").file_size > LARGEST_CONFIG:
                return _SIZE, _SIZE
            shape = next(_input_shapes(json.loads(archive.read("config.json"))), [])
    except (OSError, zipfile.BadZipFile, zlib.error, KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return _SIZE, _SIZE  # building the model reports what is wrong with the file
    height, width = [side if isinstance(side, int) else None for side in [*shape, None, None, None][1:3]]
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
