"""Embed without a gateway: decode as it does, run the SavedModel in this process, shape the vectors as it does.

Needs the packages of the exporter and of the gateway, TensorFlow included.
"""

import os
import tempfile
from argparse import Namespace
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from microtome.client import errors
from microtome.client.images import Text, encode_all
from microtome.client.options import EmbedOptions
from microtome.client.results import ModelVersion, Outcome
from microtome.commands.embed import stores
from microtome.commands.embed.errors import EmbedError
from microtome.commands.embed.keyed_images import KeyedImage
from microtome.fast_resizing import unavailable
from microtome.golden import GoldenCheck
from microtome.manifest import InputSpec, Manifest, OutputSpec
from microtome.preprocessing import decode
from service.core.vectors import checked_dimensions, require_quantization, shaped, written

if TYPE_CHECKING:
    from exporter.savedmodel.saved_model import Loaded

Array = np.ndarray[Any, Any]

_MAX_PIXELS = 50_000_000
"""The gateway's default."""

_BATCHES_AHEAD = 2
"""Batches that are decoded or computed."""


def local_version(directory: str) -> Path:
    """Return a version's directory, copied into this machine's directory for temporary files if it is in a store.

    Raises:
        EmbedError: it cannot be read.
    """
    return stores.local_copy(directory, Path(tempfile.gettempdir()) / f"microtome-models-{os.getuid()}")


def manifest(directory: Path) -> Manifest:
    """Read the manifest of a version of a model of images.

    Raises:
        EmbedError: the directory is not such a version, written by `microtome export`, or cannot be used here.
    """
    path = directory / "assets.extra" / "manifest.json"
    try:
        found = TypeAdapter(Manifest).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise EmbedError(
            f"Expected --saved-model to be a version written by microtome export, such as models/lite0/1. "
            f"{path} cannot be read: {str(error).splitlines()[0]}"
        ) from error
    if not isinstance(found.input, InputSpec):
        raise EmbedError(
            f"Expected --saved-model to be a model of images. {directory} is a text tower: a gateway embeds texts."
        )
    if lacking := unavailable(found.input):
        raise EmbedError(f"The model cannot be used here: {lacking}")
    return found


def chosen(found: Manifest, wanted: EmbedOptions) -> tuple[OutputSpec, ...]:
    """Return the outputs that are asked for.

    Raises:
        EmbedError: the model has no such output.
        BadRequest: the outputs have no such dimensions or dtype.
    """
    outputs = {output.name: output for output in found.outputs}
    names = wanted.output or (found.default_output,)
    names = tuple(outputs) if names == ("all",) else names
    if unknown := set(names) - set(outputs):
        raise EmbedError(f"Expected outputs of {', '.join(outputs)}. Received {', '.join(sorted(unknown))}.")
    asked = tuple(outputs[name] for name in names)
    checked_dimensions(wanted.dimensions, asked)
    if wanted.dtype == "int8":
        require_quantization(asked)
    return asked


def identity(directory: Path, wanted: EmbedOptions) -> ModelVersion:
    """Return the model in a directory.

    Raises:
        EmbedError: it is another one than asked for, or no model.
    """
    found = manifest(directory)
    place = directory.resolve().name
    version = int(place) if place.isdecimal() else 1
    if wanted.model not in {None, found.model} or wanted.version not in {None, version}:
        raise EmbedError(
            f"Expected --model {found.model} and --version {version}, which are in {directory}. Received "
            f"{wanted.model or found.model} and {wanted.version or version}."
        )
    return ModelVersion(found.model, version, found.fingerprint)


def decoded(body: "bytes | Text | errors.MicrotomeError", spec: InputSpec) -> "Array | errors.MicrotomeError":
    """Decode an image as the gateway does; an image that cannot be, or a text, is its error."""
    if isinstance(body, errors.MicrotomeError):
        return body
    if isinstance(body, Text):
        return errors.UnsupportedModality("Expected an image with --saved-model; received a text. Ask a gateway.")
    try:
        return decode(body, spec, max_pixels=_MAX_PIXELS)
    except errors.RequestRejected as error:
        return error


class SavedModel:
    """A SavedModel in this process.

    Attributes:
        model: its name, version and fingerprint.
        input: how images are prepared.
    """

    def __init__(self, directory: Path, wanted: EmbedOptions, *, threads: int = 0, gpu: bool = False) -> None:
        """Load the model and check its golden vectors.

        Args:
            directory: of the version.
            wanted: outputs, and how their vectors are shaped.
            threads: of an operation; 0 for the number of cores.
            gpu: whether to compute on the first GPU.

        Raises:
            EmbedError: the directory has no such model, it deviates here, or there is no GPU.
        """
        from exporter.errors import NoVersion  # noqa: PLC0415
        from exporter.runtime.tensorflow_ready import native_stderr_hidden  # noqa: PLC0415

        found = manifest(directory)
        self.model, self.input = identity(directory, wanted), found.pixels
        self._wanted, self._outputs = wanted, chosen(found, wanted)
        self._names = tuple(output.name for output in self._outputs)
        # Open as long as this object; without a reference it would be closed immediately.
        self._open = ExitStack()
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        try:
            with native_stderr_hidden():
                self._loaded = self._open.enter_context(_loaded(directory, threads, gpu=gpu))
                deviation = self._deviation(found)
        except NoVersion as error:
            raise EmbedError(str(error)) from error
        if deviation:
            raise EmbedError(
                f"{self.model.name} version {self.model.version} deviates from its golden vectors here: {deviation}."
            )

    def vectors(self, pixels: Array) -> Mapping[str, Array]:
        """Embed uint8 [N, H, W, channels]: [N, D] of the dtype that is asked for, by output."""
        wanted, found = self._wanted, self._loaded.run(pixels, self._names)
        flat = {name: rows.reshape(len(rows), -1) for name, rows in found.items()}

        def cut(row: Array) -> Array:
            return shaped(row, normalize=wanted.normalize, dimensions=wanted.dimensions)

        return {
            output.name: written(np.stack([cut(row) for row in flat[output.name]]), wanted.dtype, output)
            for output in self._outputs
        }

    def _deviation(self, found: Manifest) -> str:
        check = GoldenCheck.of(found)
        if check is None:
            return ""
        kept = {name: check.golden.vectors[name] for name in self._names}
        tolerances = {name: check.tolerances[name] for name in self._names}
        check = replace(check, golden=replace(check.golden, vectors=kept), tolerances=tolerances)
        beyond = check.beyond(check.deviations([self._loaded.run(asked, self._names) for asked in check.requests]))
        return ", ".join(f"{name} by {off:.1e} of {tolerances[name]:g}" for name, off in beyond.items())


@contextmanager
def _loaded(directory: Path, threads: int, *, gpu: bool) -> Iterator["Loaded"]:
    import tensorflow as tf  # noqa: PLC0415

    from exporter.errors import NoVersion  # noqa: PLC0415
    from exporter.savedmodel.saved_model import loaded  # noqa: PLC0415

    tf.get_logger().setLevel("ERROR")
    if gpu and not tf.config.list_physical_devices("GPU"):
        raise NoVersion(
            "Ray gave the worker a GPU, and TensorFlow sees none: it needs a build with CUDA there (pip install "
            "'tensorflow[and-cuda]==2.20.0'), or --num-gpus 0."
        )
    if gpu:
        # It moves vectors by 1.3e-3 and more.
        tf.config.experimental.enable_tensor_float_32_execution(False)
    with loaded(directory, threads=threads, gpu=gpu) as found:
        yield found


class SavedModelEngine:
    """Embeds with a SavedModel in this process, in place of a gateway."""

    def __init__(self, options: Namespace) -> None:
        self._options = options
        self._directory = local_version(options.saved_model)

    def identify(self, model: str | None) -> tuple[str, int]:  # noqa: ARG002, the options have the version too
        """Return the model's name and version.

        Raises:
            EmbedError: it is another one than asked for.
        """
        found = identity(self._directory, self._options.wanted)
        return found.name, found.version

    def outcomes(self, images: Iterator[KeyedImage], wanted: EmbedOptions) -> Iterator[Outcome]:
        """Embed images in order; the next batch is decoded while one is computed."""
        model = SavedModel(self._directory, wanted)
        size = self._options.batch or manifest(self._directory).max_batch_size
        ahead = deque[tuple[list[KeyedImage], Iterator[Array | errors.MicrotomeError]]]()
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            while True:
                while len(ahead) < _BATCHES_AHEAD and (batch := list(islice(images, size))):
                    ahead.append((batch, threads.map(partial(_prepared, model.input), batch)))
                if not ahead:
                    return
                batch, prepared = ahead.popleft()
                yield from _outcomes(model, batch, list(prepared))

    def close(self) -> None:
        """There is nothing to close."""


def _prepared(spec: InputSpec, image: KeyedImage) -> Array | errors.MicrotomeError:
    (body,) = encode_all([image])
    return decoded(body, spec)


def _outcomes(
    model: SavedModel, images: Sequence[KeyedImage], prepared: Sequence[Array | errors.MicrotomeError]
) -> Iterator[Outcome]:
    sound = [found for found in prepared if not isinstance(found, errors.MicrotomeError)]
    vectors = model.vectors(np.stack(sound)) if sound else {}
    rows = iter(range(len(sound)))
    for image, found in zip(images, prepared, strict=True):
        if isinstance(found, errors.MicrotomeError):
            yield Outcome(image, error=found)
        else:
            row = next(rows)
            yield Outcome(image, vectors={name: matrix[row] for name, matrix in vectors.items()}, model=model.model)
