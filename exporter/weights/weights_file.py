"""Weights files of the user's own for a known architecture."""

from __future__ import annotations

from pathlib import Path

import keras

from exporter.errors import WeightsFileBroken, WeightsUnavailable
from exporter.weights import efficientnet_lite

_KERAS = (".h5", ".hdf5", ".keras")
_PYTORCH = (".pt", ".pth")


def load_weights_file(model: keras.Model, backbone: str, path: str) -> str:
    """Fill a model with a file's weights and say where they came from.

    Args:
        model: Of the architecture that the file is for.
        backbone: The architecture's name.
        path: Keras' `.weights.h5`, `.h5` or `.keras`; a PyTorch state dict for EfficientNet-Lite.

    Raises:
        WeightsUnavailable: There is no such file.
        WeightsFileBroken: It is not the weights of this architecture.
    """
    file = Path(path)
    if not file.is_file():
        raise WeightsUnavailable(f"Expected a weights file for {backbone}. Received: {path}, which is not there.")
    if file.suffix in _PYTORCH:
        efficientnet_lite.load_file(model, backbone, file)
    elif file.suffix in _KERAS:
        _load_keras(model, backbone, file)
    else:
        kinds = ", ".join((*_KERAS, *_PYTORCH))
        raise WeightsFileBroken(f"Expected a weights file ({kinds}). Received: {path}.")
    return f"the file {file.name}"


def _load_keras(model: keras.Model, backbone: str, file: Path) -> None:
    try:
        if file.suffix == ".keras":
            _copy(model, keras.saving.load_model(file, compile=False, safe_mode=True))
        else:
            model.load_weights(file)
    except Exception as error:  # Keras and h5py raise whatever the file makes them raise
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise WeightsFileBroken(
            f"Expected the weights of {backbone}{_top(model)}. Received: {file}, of which Keras says: {said} "
            "If the file is without the classifier, say include_top: false."
        ) from error


def _copy(model: keras.Model, donor: keras.Model) -> None:
    """Copy weights layer by layer, by name; a donor with more layers (a classifier of its own) is welcome."""
    by_name = {layer.name: layer for layer in donor.layers}
    for layer in model.layers:
        if layer.weights:
            if layer.name not in by_name:
                raise ValueError(f"it has no layer {layer.name}.")
            layer.set_weights(by_name[layer.name].get_weights())


def _top(model: keras.Model) -> str:
    return " with its classifier" if len(model.outputs[0].shape) == 2 else " without its classifier"
