"""Load the user's own models, from a `.keras` file, a function or a KerasHub preset, and resize their input."""

import importlib
import io
import sys
import zipfile
from pathlib import Path
from typing import IO

import h5py
import keras

from exporter.errors import ImpossibleInput, ImpossibleModel
from exporter.graph.network import Network
from exporter.models import classic_networks
from exporter.recipe.own_backbones import KERAS_FILE, LARGEST_CONFIG
from exporter.runtime.archives import check_inflated, opened_zip


def load(text: str) -> tuple[keras.Model, str]:
    """Return the model and where it came from.

    Args:
        text: A path ending in `.keras`, `module:function` or `keras_hub:preset`.

    Raises:
        ImpossibleModel: It does not exist, or it is not a functional model with one image input.
    """
    if text.endswith(KERAS_FILE):
        model, origin = _from_file(Path(text)), f"the file {Path(text).name}"
    elif text.startswith("keras_hub:"):
        model, origin = _from_preset(text.partition(":")[2]), f"KerasHub preset {text.partition(':')[2]}"
    else:
        model, origin = _from_function(text), f"the function {text}"
    if not isinstance(model, keras.Model):
        raise ImpossibleModel(f"Expected a keras.Model from {text}. Received: {type(model).__name__}.")
    if isinstance(model, keras.Sequential) and not model.built:
        raise ImpossibleModel(f"Expected {text} to begin with keras.Input. Received: a Sequential without input shape.")
    if not isinstance(model, keras.Sequential) and not hasattr(model, "_nodes_by_depth"):
        raise ImpossibleModel(
            f"Expected a functional or Sequential model from {text}, whose layers can be cut at. Received: the "
            f"subclass {type(model).__name__}. Wrap its parts as keras.Model(inputs, outputs)."
        )
    shapes = [tuple(tensor.shape) for tensor in model.inputs]
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][-1] != 3:
        raise ImpossibleModel(f"Expected one input of images [N, H, W, 3] in {text}. Received: {shapes}.")
    return model, origin


def _from_file(path: Path) -> keras.Model:
    if not path.is_file():
        raise ImpossibleModel(f"Expected a file {path}. Received: there is none.")
    try:
        return load_keras(path)
    except Exception as error:  # Keras raises many types for damaged files
        raise ImpossibleModel(
            f"Expected a model saved by Keras 3. Received: {path}, of which Keras says: {first_line(error)}"
        ) from error


def load_keras(path: Path) -> keras.Model:
    """Load a `.keras` file.

    Raises:
        Exception: It is damaged, inflates to more than its size allows, or needs code that is not imported; of the many
            types that Keras raises.
    """
    with opened_zip(path) as archive:
        for name in archive.namelist():
            if name.endswith(".json") and archive.getinfo(name).file_size > LARGEST_CONFIG:
                raise ValueError(f"{name} has {archive.getinfo(name).file_size:,} bytes.")
            if name.endswith(".h5"):
                with archive.open(name) as member:
                    stored = archive.getinfo(name).compress_type == zipfile.ZIP_STORED
                    # Going back in a packed member would inflate it again each time.
                    check_h5(member if stored else io.BytesIO(member.read()), path.stat().st_size)
    # Safe mode refuses Lambda layers with pickled code; module:function can load those. Layers are found by their
    # registered names, wherever they are defined: blocks of older versions name another module.
    layers = {"microtome>LocalResponseNormalization": classic_networks.LocalResponseNormalization}
    return keras.saving.load_model(path, custom_objects=layers, compile=False, safe_mode=True)


def check_h5(file: Path | IO[bytes], size: int) -> None:
    """Check that the arrays of an HDF5 file are in it, and are no larger than its size allows.

    Args:
        file: The file.
        size: Of the file that it is or is in, in bytes.

    Raises:
        ValueError: It refers to other files, or a few bytes stand for a large array.
        OSError: It is no HDF5 file.
        zipfile.BadZipFile: It inflates to more.
    """
    found: list[int] = []
    elsewhere: list[str] = []

    def see(name: str, link: object) -> None:
        if isinstance(link, h5py.ExternalLink):
            elsewhere.append(name)

    def measure(name: str, thing: object) -> None:
        if isinstance(thing, h5py.Dataset):
            found.append(thing.size * thing.dtype.itemsize)
            if thing.external or thing.is_virtual:
                elsewhere.append(name)

    with h5py.File(file, "r") as weights:
        weights.visititems_links(see)
        weights.visititems(measure)
    if elsewhere:
        raise ValueError(f"{elsewhere[0]} is in another file.")
    check_inflated(sum(found), size)


def _from_function(text: str) -> keras.Model:
    module, _, name = text.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)  # as python -m does, for modules in the current directory
    try:
        function = getattr(importlib.import_module(module), name)
        return function()
    except Exception as error:  # the user's code may raise anything
        raise ImpossibleModel(
            f"Expected the module {module} with a function {name}() that returns a keras.Model. Received: "
            f"{type(error).__name__}: {first_line(error)}"
        ) from error
    finally:
        sys.path.remove(here)


def _from_preset(preset: str) -> keras.Model:
    try:
        keras_hub = importlib.import_module("keras_hub")
    except ImportError as error:
        raise ImpossibleModel(
            f"Expected the package keras-hub for the preset {preset}. Received: it is not installed. Run pip install "
            "keras-hub."
        ) from error
    try:
        return keras_hub.models.Backbone.from_preset(preset)
    except Exception as error:  # unknown, not downloadable, or not a backbone
        raise ImpossibleModel(
            f"Expected a KerasHub backbone preset, by name or local directory. Received: {preset!r}, of which KerasHub "
            f"says: {first_line(error)}"
        ) from error


def first_line(error: Exception) -> str:
    """Return the first line of an exception's message, or its type without one."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def resized(model: keras.Model, height: int, width: int) -> keras.Model:
    """Return the model with the same layers on another input size; the model itself if it has this size.

    Args:
        model: Functional, with one input [N, H, W, C] of any fixed or unknown size.
        height: Pixels.
        width: Pixels.

    Raises:
        ImpossibleInput: A layer, such as a classifier on a flattened map, cannot take that size.
    """
    (images,) = model.inputs
    if tuple(images.shape[1:3]) == (height, width):
        return model
    start = keras.Input((height, width, images.shape[3]), dtype=images.dtype, name=images.name)
    tensors = {id(images): start}
    for call in Network(model).calls:
        if call.inputs:
            try:
                found = call.again(tensors)
            except ValueError as error:
                raise ImpossibleInput(
                    f"Expected an input size that {model.name} can take, such as its own "
                    f"{images.shape[1]}x{images.shape[2]}. Received: {height}x{width} pixels, at which the layer "
                    f"{call.layer.name} fails. Set input: size: in the recipe."
                ) from error
            tensors.update(zip((id(tensor) for tensor in call.outputs), found, strict=True))
    return keras.Model(start, [tensors[id(tensor)] for tensor in model.outputs], name=model.name)
