"""The user's own backbones: a `.keras` or `.h5` file, a function that returns a model, a KerasHub preset.

They are recognised by their spelling and described without TensorFlow.
"""

import importlib
import json
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

from exporter.errors import UnknownBackbone, first_line
from exporter.recipe.preprocessing import INTERPOLATIONS, input_spec
from exporter.runtime.archives import opened_zip
from exporter.runtime.tensorflow_ready import tensorflow_ready
from microtome.manifest import CHANNELS, Color, InputSpec, Interpolation

KERAS_FILES = (".keras", ".h5", ".hdf5")
FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
PRESET_PREFIX = "keras_hub:"
PRESET = re.compile(rf"{PRESET_PREFIX}.+")
LARGEST_CONFIG = 16 << 20
"""Bytes of a saved model's configuration."""

CONVERTER = "image_converter.json"
"""Of a preset: what KerasHub does to an image before the backbone."""

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


@dataclass(frozen=True, slots=True)
class PresetInput:
    """What a KerasHub preset wants done to an image.

    Attributes:
        pixels: Size, resizing and crop. The gateway's resizing averages over all pixels, KerasHub's not always.
        scale: What 0..255 pixels are multiplied by, one number or one for each channel.
        offset: What is added then, likewise.
    """

    pixels: InputSpec
    scale: float | list[float]
    offset: float | list[float]


@cache
def preset_input(preset: str) -> PresetInput | None:
    """Return what a preset wants done to an image; None for a preset that does not say it.

    Args:
        preset: A directory, a name that KerasHub knows, or a handle such as `kaggle://…`, whose files are downloaded.

    Raises:
        UnknownBackbone: The preset is unknown or cannot be downloaded.
    """
    config = _converter(preset)
    if config is None or not config.get("image_size"):
        return None
    size = config["image_size"]
    height, width = (size, size) if isinstance(size, int) else size
    wanted = str(config.get("interpolation"))
    interpolation = cast("Interpolation", wanted if wanted in INTERPOLATIONS else "bilinear")
    pixels = input_spec(height, width, shortest_side=max(height, width), interpolation=interpolation)
    if config.get("pad_to_aspect_ratio"):
        pixels = replace(pixels, resize="letterbox", shortest_side=None, crop="none")
    elif not config.get("crop_to_aspect_ratio", True):
        pixels = replace(pixels, resize="squash", shortest_side=None, crop="none")
    return PresetInput(pixels, config.get("scale") or 1.0, config.get("offset") or 0.0)


def brings_scaling(backbone: str) -> bool:
    """Whether a backbone of the user's own says how its pixels are scaled, as most presets do."""
    return backbone.startswith(PRESET_PREFIX) and preset_input(backbone.removeprefix(PRESET_PREFIX)) is not None


def _converter(preset: str) -> Mapping[str, Any] | None:
    if Path(preset).is_dir():
        try:
            found = json.loads((Path(preset) / CONVERTER).read_text(encoding="utf-8"))
            return cast("Mapping[str, Any]", found["config"])
        except (OSError, ValueError, KeyError, TypeError):
            return None  # a backbone that was saved alone; loading reports what is wrong with the others
    try:
        with tensorflow_ready():
            keras_hub = importlib.import_module("keras_hub")
            config: Mapping[str, Any] = keras_hub.layers.ImageConverter.from_preset(preset).get_config()
            return config
    except ImportError:
        return None  # loading says what to install
    except Exception as error:  # unknown, or not downloadable
        raise UnknownBackbone(preset_unavailable(preset, error)) from error


def preset_unavailable(preset: str, error: Exception) -> str:
    """Return what to do about a preset that cannot be had."""
    said = first_line(error).removesuffix(" A preset must be a one of:").rstrip(".") + "."
    return (
        f"Expected a KerasHub preset of images, by name or directory. Received: {preset!r}, of which KerasHub says: "
        f"{said} Two ways on: where the preset's host is reached, run keras_hub.models.Backbone.from_preset({preset!r})"
        '.save_to_preset("FOLDER") and the same with keras_hub.layers.ImageConverter, and say backbone: '
        "keras_hub:FOLDER here; or use EfficientNetLite0, 1 or 2, whose weights are installed."
    )
