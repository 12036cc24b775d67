"""The engine of many machines: Ray Data sends images to actors, which ask the gateway or hold the SavedModel.

Ray Data hands an actor a batch of pickled images and takes a batch of pickled outcomes. These come back in order and go
into the same journal as the other engine's, so a run that was killed resumes in the same way. The actors read the image
files: all machines must see them under the same names.
"""

import importlib
import logging
import pickle
from argparse import Namespace
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from microtome.client.client import Client
from microtome.client.errors import MicrotomeError
from microtome.client.options import EmbedOptions
from microtome.client.results import Outcome
from microtome.commands.embed.engine import GatewayEngine, vector_options
from microtome.commands.embed.errors import EmbedError
from microtome.commands.embed.keyed_images import ImageBytes, KeyedImage
from microtome.commands.embed.progress import Progress

Batch = Mapping[str, Any]

_SLICE_IMAGES, _SLICE_BYTES = 100_000, 256 << 20
"""Most images and bytes of one pipeline, which the driver holds; bytes count only for images that are in memory."""


class RayEngine:
    """Runs pipelines on a Ray cluster."""

    def __init__(self, options: Namespace, progress: Progress) -> None:
        """Join a cluster, or start one here.

        Raises:
            EmbedError: Ray is not installed.
        """
        self._options = options
        self._ray, self._data = _imported("ray"), _imported("ray.data")
        self._ray.init(
            address=options.ray_address, ignore_reinit_error=True, log_to_driver=False, logging_level=logging.ERROR
        )
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        context = self._data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        self._gateway = None if options.saved_model else GatewayEngine(options, progress)

    def identify(self, model: str | None) -> tuple[str, int | None]:
        """Return the model's name and version, from the gateway or from the SavedModel's path.

        Raises:
            EmbedError: there is no such model.
        """
        if self._gateway:
            return self._gateway.identify(model)
        from microtome.commands.embed.saved_model import identity  # noqa: PLC0415, it needs the server's packages

        return identity(self._options.saved_model, model)

    def outcomes(self, images: Iterator[KeyedImage], wanted: EmbedOptions) -> Iterator[Outcome]:
        """Embed images, one slice after the other.

        Raises:
            MicrotomeError: an error that concerns every image.
            EmbedError: Ray cannot run the pipeline.
        """
        for part in slices(images):
            rows = self._data.from_items([{"image": pickle.dumps(image)} for image in part])
            try:
                for image, row in zip(part, self._mapped(rows, wanted).iter_rows(), strict=True):
                    found = pickle.loads(row["result"])  # noqa: S301, an actor pickled it
                    if isinstance(found, MicrotomeError):
                        raise found
                    yield replace(found, image=image)
            except self._ray.exceptions.RayError as error:
                raise EmbedError(f"Ray could not run the pipeline: {error}") from error

    def _mapped(self, rows: Any, wanted: EmbedOptions) -> Any:  # noqa: ANN401, Ray Data's own types
        options = self._options
        actors = self._data.ActorPoolStrategy(min_size=1, max_size=options.concurrency)
        shared: dict[str, Any] = {"batch_size": options.batch, "compute": actors}
        if options.saved_model:
            given: dict[str, Any] = {"directory": str(options.saved_model.resolve()), "wanted": wanted}
            return rows.map_batches(SavedModelActor, fn_constructor_kwargs=given, num_cpus=1, **shared)
        given = {"url": options.url, "api_key": options.api_key, "ca_file": options.ca_file, "wanted": wanted}
        # A quarter of a core, since it mostly waits.
        return rows.map_batches(GatewayActor, fn_constructor_kwargs=given, num_cpus=0.25, **shared)

    def close(self) -> None:
        """Close all connections, and leave the cluster."""
        if self._gateway:
            self._gateway.close()
        self._ray.shutdown()


class GatewayActor:
    """Asks the gateway, and waits for it however long it is away."""

    def __init__(self, url: str, api_key: str | None, ca_file: str | None, wanted: EmbedOptions) -> None:
        self._client = Client(url, api_key=api_key, ca_file=ca_file, deadline=None, attempts=None)
        self._wanted = wanted

    def __call__(self, batch: Batch) -> dict[str, Any]:
        """Embed a batch."""
        images = _unpickled(batch)
        try:
            outcomes = self._client.embed_many(images, concurrency=1, batch=len(images), **vector_options(self._wanted))
            return {"result": [packed(outcome) for outcome in outcomes]}
        except MicrotomeError as error:
            # Returned, since Ray would restart an actor that raises, and this error must end the run.
            return {"result": [pickle.dumps(error)] * len(images)}


class SavedModelActor:
    """Holds the SavedModel, decodes as the gateway does and runs the model: no gateway, no cache."""

    def __init__(self, directory: str, wanted: EmbedOptions) -> None:
        from microtome.commands.embed.saved_model import SavedModelEmbedder  # noqa: PLC0415, it imports TensorFlow

        self._embedder = SavedModelEmbedder(Path(directory), wanted)

    def __call__(self, batch: Batch) -> dict[str, Any]:
        """Embed a batch."""
        return {"result": [packed(outcome) for outcome in self._embedder.embed(_unpickled(batch))]}


def _unpickled(batch: Batch) -> list[KeyedImage]:
    return [pickle.loads(image) for image in batch["image"]]  # noqa: S301, the driver pickled them


def packed(outcome: Outcome) -> bytes:
    """Pickle an outcome without its image, which the driver has."""
    return pickle.dumps(replace(outcome, image=None))


def slices(images: Iterator[KeyedImage]) -> Iterator[list[KeyedImage]]:
    """Cut a list of images into what the driver can hold."""
    part: list[KeyedImage] = []
    held = 0
    for image in images:
        part.append(image)
        held += len(image.body) if isinstance(image, ImageBytes) else 0
        if len(part) >= _SLICE_IMAGES or held >= _SLICE_BYTES:
            yield part
            part, held = [], 0
    if part:
        yield part


def _imported(module: str) -> Any:  # noqa: ANN401, it may not be installed
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise EmbedError(
            f"--engine ray needs Ray, which is not installed: pip install 'ray[data]' ({error})."
        ) from None
