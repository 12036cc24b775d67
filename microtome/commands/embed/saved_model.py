"""Embed without a gateway: decode as it does, run the SavedModel in this process, shape the vectors as it does.

Needs the packages of the exporter and of the gateway, TensorFlow included; only Ray's actors import it.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from microtome.client import errors
from microtome.client.images import encode_all
from microtome.client.options import EmbedOptions
from microtome.client.results import ModelVersion, Outcome
from microtome.commands.embed.errors import EmbedError
from microtome.fast_resizing import unavailable
from microtome.manifest import Manifest
from microtome.preprocessing import decode
from service.core.vectors import shaped, written

if TYPE_CHECKING:
    from microtome.client.images import Text
    from microtome.commands.embed.keyed_images import KeyedImage

_MAX_PIXELS = 50_000_000
"""The gateway's default."""


def manifest(directory: Path) -> Manifest:
    """Read a version's manifest.

    Raises:
        EmbedError: the directory is not a version written by `microtome export`.
    """
    path = directory / "assets.extra" / "manifest.json"
    try:
        return TypeAdapter(Manifest).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise EmbedError(
            f"Expected --saved-model to be a version written by microtome export, such as models/lite0/1. "
            f"{path} cannot be read: {str(error).splitlines()[0]}"
        ) from error


def identity(directory: Path, model: str | None) -> tuple[str, int]:
    """Return the name and the version of the model in a directory.

    Raises:
        EmbedError: it is another model than the one asked for, or no model.
    """
    name = manifest(directory).model
    if model not in {None, name}:
        raise EmbedError(f"Expected --model {name}, which is in {directory}. Received {model!r}.")
    place = directory.resolve().name
    return name, int(place) if place.isdecimal() else 1


class SavedModelEmbedder:
    """A SavedModel in this process."""

    def __init__(self, directory: Path, wanted: EmbedOptions) -> None:
        """Load the model.

        Raises:
            EmbedError: the directory has no model, or the model no such output.
        """
        from exporter.savedmodel.saved_model import loaded  # noqa: PLC0415, TensorFlow

        self._manifest = manifest(directory)
        if lacking := unavailable(self._manifest.pixels):
            raise EmbedError(f"The model cannot be used here: {lacking}")
        self._wanted = wanted
        self._outputs = {output.name: output for output in self._manifest.outputs}
        names = wanted.output or (self._manifest.default_output,)
        self._names = tuple(self._outputs) if names == ("all",) else names
        if unknown := set(self._names) - set(self._outputs):
            raise EmbedError(f"Expected outputs of {', '.join(self._outputs)}. Received {', '.join(sorted(unknown))}.")
        name, version = identity(directory, wanted.model)
        self._model = ModelVersion(name, version, self._manifest.fingerprint)
        # Open as long as the actor lives; without a reference it would be closed immediately.
        self._open = ExitStack()
        self._loaded = self._open.enter_context(loaded(directory))

    def embed(self, images: "Sequence[KeyedImage]") -> list[Outcome]:
        """Embed one batch."""
        pixels = [self._pixels(body) for body in encode_all(images)]
        sound = [place for place, found in enumerate(pixels) if not isinstance(found, errors.MicrotomeError)]
        outcomes = [Outcome(image, error=found) for image, found in zip(images, pixels, strict=True)]
        if sound:
            vectors = self._loaded.run(np.stack([pixels[place] for place in sound]), self._names)
            packed = {name: self._written(name, matrix) for name, matrix in vectors.items()}
            for row, place in enumerate(sound):
                mine = {name: packed[name][row] for name in self._names}
                outcomes[place] = Outcome(images[place], vectors=mine, model=self._model)
        return outcomes

    def _pixels(self, body: "bytes | Text | errors.MicrotomeError") -> Any:  # noqa: ANN401, pixels or an error
        if isinstance(body, errors.MicrotomeError):
            return body
        if not isinstance(body, bytes):
            return errors.UnsupportedModality("Expected an image with --saved-model; received a text. Ask a gateway.")
        try:
            return decode(body, self._manifest.pixels, max_pixels=_MAX_PIXELS)
        except errors.RequestRejected as error:
            return error

    def _written(self, name: str, matrix: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        wanted = self._wanted
        flat = matrix.reshape(len(matrix), -1)
        cut = np.stack([shaped(row, normalize=wanted.normalize, dimensions=wanted.dimensions) for row in flat])
        return written(cut, wanted.dtype, self._outputs[name])
