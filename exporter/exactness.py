"""What an image's vectors are but for rounding: the slice computed in float64.

Some images are ill-conditioned: what float32 rounds off grows on its way through the network. A flat grey picture
through EfficientNet-Lite0 differs from float64 by 5e-5 in Keras already, and processors round differently. There,
differing from Keras says nothing, and float64 has to say who is how far off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import keras
import numpy as np

from exporter.memory import give_back
from exporter.projection import Fitted
from exporter.reference import reference
from exporter.slicing import Slice

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Exactly:
    """Computes some of the pixels' outputs in float64.

    Attributes:
        slice_: In float32.
        pixels: uint8 [N, H, W, 3], RGB.
        projections: By output name.
    """

    slice_: Slice
    pixels: Array
    projections: Mapping[str, Fitted]
    _known: dict[int, dict[str, Array]] = field(default_factory=dict, init=False)

    def outputs(self, rows: Array) -> dict[str, Array] | None:
        """Return the outputs of some of the images, by name float64 [len(rows), ...]; None if the slice cannot."""
        try:
            for row in set(rows.tolist()) - set(self._known):  # one at a time: float64 takes twice the room
                self._known[row] = reference(self._precise, self.pixels[row : row + 1], self.projections)
            found = [self._known[row] for row in rows.tolist()]
            return {name: np.concatenate([vectors[name] for vectors in found]) for name in found[0]}
        except Exception:  # noqa: BLE001, people's own layers may fail at float64 in any way; then there is no such witness
            return None
        finally:
            give_back()

    @cached_property
    def _precise(self) -> Slice:
        return replace(self.slice_, model=in_float64(self.slice_.model))


def in_float64(model: keras.Model) -> keras.Model:
    """Return the same network with the same weights that computes in float64."""

    def precise(layer: keras.layers.Layer) -> keras.layers.Layer:
        return layer.__class__.from_config(_in_float64(layer.get_config()))

    clone = keras.models.clone_model(model, clone_function=precise)
    for weight, original in zip(clone.weights, model.weights, strict=True):
        weight.assign(original)  # one at a time: `set_weights` takes a copy of all of them
    return clone


def _in_float64(config: Any) -> Any:  # noqa: ANN401, JSON
    if isinstance(config, dict):
        return {key: _in_float64(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return type(config)(_in_float64(value) for value in config)
    return "float64" if config == "float32" else config
