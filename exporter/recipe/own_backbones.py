"""The user's own backbones: a `.keras` or `.h5` file, a function that returns a model, a KerasHub preset.

They are recognised by their spelling and described without TensorFlow.
"""

import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from exporter.runtime.archives import opened_zip
from microtome.manifest import CHANNELS, Color

KERAS_FILES = (".keras", ".h5", ".hdf5")
FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
PRESET_PREFIX = "keras_hub:"
PRESET = re.compile(rf"{PRESET_PREFIX}.+")
LARGEST_CONFIG = 16 << 20
"""Bytes of a saved model's configuration."""

_SIZE = 224
_OTHERS = {
    ".onnx": "an ONNX file",
    ".pb": "a TensorFlow graph",
    ".pt": "a PyTorch file",
    ".pth": "a PyTorch file",
    ".safetensors": "a file of tensors",
    ".tflite": "a LiteRT file",
}


def is_own(text: str) -> bool:
    """Whether a backbone is spelt as one of the user's own."""
    return text.endswith(KERAS_FILES) or FUNCTION.fullmatch(text) is not None or PRESET.fullmatch(text) is not None


def own_input(text: str) -> tuple[int, int, Color]:
    """Return the height and width in pixels and the colour of an own model's input.

    They are 224 and RGB where the file does not say them.
    """
    if not text.endswith(KERAS_FILES):
        return _SIZE, _SIZE, "rgb"
    try:
        shape = next(_input_shapes(saved_config(Path(text))), [])
    except (OSError, zipfile.BadZipFile, zlib.error, KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return _SIZE, _SIZE, "rgb"  # building the model reports what is wrong with the file
    height, width, channels = [side if isinstance(side, int) else None for side in [*shape, *[None] * 4][1:4]]
    return height or _SIZE, width or _SIZE, color_of(channels) or "rgb"


def color_of(channels: int | None) -> Color | None:
    """Return the colour of images with so many channels; None where there is no such colour."""
    return next((color for color, count in CHANNELS.items() if count == channels), None)


def saved_config(path: Path) -> Any:  # noqa: ANN401, what is in the file
    """Return the configuration in a model's file.

    Raises:
        KeyError: It has none: it holds weights only.
        ValueError: It is longer than any model's, or no JSON.
        OSError: It cannot be read.
        zipfile.BadZipFile: It is damaged.
    """
    if not path.name.endswith(KERAS_FILES[0]):
        import h5py  # noqa: PLC0415, only for these files

        with h5py.File(path, "r") as file:
            text = file.attrs["model_config"]
        if len(text) > LARGEST_CONFIG:
            raise ValueError(f"its configuration has {len(text):,} bytes.")
        return json.loads(text)
    with opened_zip(path) as archive:
        size = archive.getinfo("config.json").file_size
        if size > LARGEST_CONFIG:
            raise ValueError(f"config.json has {size:,} bytes.")
        return json.loads(archive.read("config.json"))


def of_another_format(path: Path) -> str | None:
    """Return what to do with a model of a format without layers; None for anything else."""
    kind = _OTHERS.get(path.suffix.lower())
    if (path / "saved_model.pb").is_file():
        kind = "a SavedModel directory"
    if kind is None:
        return None
    return (
        f"Expected a Keras model, whose layers can be cut at. Received: {path}, {kind}, which does not keep them as "
        "Keras needs them: save the model that it was made from as FILE.keras (in tf.keras too: model.save), give a "
        "module:function that builds it, or load a PyTorch state dict with weights: FILE.pth into a backbone of the "
        "table."
    )


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
