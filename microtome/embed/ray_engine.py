"""The engine of many machines: Ray Data carries the images to actors, which ask the gateway or hold the SavedModel.

Results come back in order and go into the same journal as those of the other engine, so a run can be killed and goes on
in the same way. Image files are read by the actors: all machines must see them under the same names.
"""

import importlib
import logging
import pickle
from collections.abc import Iterator
from typing import Any, Self

from microtome.client.options import EmbedOptions
from microtome.client.outcomes import Outcome
from microtome.embed.arguments import Options
from microtome.embed.errors import EmbedError
from microtome.embed.gateway_engine import GatewayEngine
from microtome.embed.images import ImageBytes, Located
from microtome.embed.progress import Progress
from microtome.embed.ray_actors import GatewayActor, SavedModelActor, unpacked

_SLICE_IMAGES, _SLICE_BYTES = 100_000, 256 << 20
"""What one pipeline is given: the driver holds it. Bytes count for images that had to be read to be listed."""


class RayEngine:
    """Runs pipelines on a Ray cluster."""

    def __init__(self, options: Options, progress: Progress) -> None:
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

    def identify(self, model: str | None) -> tuple[str, int]:
        """Return the model's name and version, as the gateway or the SavedModel's place says.

        Raises:
            EmbedError: there is no such model.
        """
        if self._gateway:
            return self._gateway.identify(model)
        from microtome.embed.saved_model import identity  # noqa: PLC0415, it reads the manifest

        assert self._options.saved_model is not None  # noqa: S101, for mypy: one of the two is there
        return identity(self._options.saved_model, model)

    def outcomes(self, images: Iterator[Located], wanted: EmbedOptions) -> Iterator[Outcome]:
        """Embed images, a slice after the other.

        Raises:
            MicrotomeError: what would be wrong with every image.
            EmbedError: Ray cannot run the pipeline.
        """
        for part in slices(images):
            rows = self._data.from_items([{"image": pickle.dumps(image)} for image in part])
            try:
                for image, row in zip(part, self._mapped(rows, wanted).iter_rows(), strict=True):
                    yield unpacked(row["result"], image, wanted)
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
        # It waits more than it works.
        return rows.map_batches(GatewayActor, fn_constructor_kwargs=given, num_cpus=0.25, **shared)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._gateway:
            self._gateway.__exit__()
        self._ray.shutdown()


def slices(images: Iterator[Located]) -> Iterator[list[Located]]:
    """Cut a list of images into what the driver can hold."""
    part: list[Located] = []
    held = 0
    for image in images:
        part.append(image)
        held += len(image.body) if isinstance(image, ImageBytes) else 0
        if len(part) >= _SLICE_IMAGES or held >= _SLICE_BYTES:
            yield part
            part, held = [], 0
    if part:
        yield part


def _imported(module: str) -> Any:  # noqa: ANN401, it may not be there
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise EmbedError(f"--engine ray needs Ray: pip install 'microtome[ray]' ({error}).") from None
