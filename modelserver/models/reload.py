"""The set of models that is served: at the start, and as requests, a file or a directory change it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from microtome.tfserving.v1 import model_server_config_pb2
from microtome.tfserving.v1 import serving_pb2 as pb
from modelserver.config.logs import LogThrottle
from modelserver.config.text_protos import read_file
from modelserver.errors import FailedPrecondition, NothingToServe, PermissionDenied, ServingError, Unknown
from modelserver.models.catalogue import Catalogue
from modelserver.models.model import Model
from modelserver.models.model_config import ModelConfig, models_of, read_configs
from modelserver.models.version_policy import State

log = logging.getLogger(__name__)


class Reloader:
    """Replaces the configuration, one change after the other.

    Args:
        catalogue: The models to configure.
        labels_may_wait: Whether a new label may name a version that is not loaded yet.
        within: The directory that all models of a request or a file must be in; None for anywhere.
        by_request: Whether callers may replace the configuration: then they decide which graphs run here.
    """

    def __init__(
        self, catalogue: Catalogue, *, labels_may_wait: bool, within: Path | None = None, by_request: bool = False
    ) -> None:
        self._catalogue = catalogue
        self._labels_may_wait = labels_may_wait
        self._within = within
        self._by_request = by_request
        self._turn = asyncio.Lock()

    async def reload(self, request: pb.ReloadConfigRequest) -> pb.ReloadConfigResponse:
        """Answer a ``ReloadConfigRequest`` once every newly named model has settled.

        Unlike the real server, which first records a configuration and then checks it, a refused one changes nothing;
        and while one waits for a model without a version, the next can replace it.

        Raises:
            PermissionDenied: This server takes no configuration from callers.
            InvalidArgument: The configuration is wrong, or names a directory outside of ``within``.
            FailedPrecondition: A label names a version that is not available.
            Unknown: A new model did not become available.
        """
        if not self._by_request:
            raise PermissionDenied(
                "This server takes no configuration over gRPC. Expected a change of its --model_config_file or "
                "--models_dir, or a start with --enable_reload_requests"
            )
        served = {name for name, model in self._catalogue.models.items() if not model.retired}
        await settled(await self.apply(read_configs(request.config, served, self._within)))
        return pb.ReloadConfigResponse()

    async def apply_file(self, path: Path) -> Sequence[Model]:
        """Apply a file that holds a ``ModelServerConfig``; like ``apply``."""
        config = await asyncio.to_thread(read_file, path, model_server_config_pb2.ModelServerConfig)
        return await self.apply(read_configs(config, within=self._within))

    async def apply(self, configs: Sequence[ModelConfig]) -> Sequence[Model]:
        """Replace the set of models; return when each new one has been loaded, or has no version that could be.

        Returns:
            The new ones; wait for those without a version with ``settled``, during which the next change may come.

        Raises:
            FailedPrecondition: A label names a version that is not available.
        """
        async with self._turn:
            for config in configs:
                self._check_labels(config)
            new = self._catalogue.apply(configs)
            await asyncio.gather(*(model.decided.wait() for model in new))
            return new

    def _check_labels(self, config: ModelConfig) -> None:
        model = self._catalogue.models.get(config.name)
        known = model.config.labels if model else {}
        available = model.available() if model else {}
        for label, version in config.labels.items():
            may_wait = self._labels_may_wait and label not in known
            if version not in available and not may_wait and known.get(label) != version:
                raise FailedPrecondition(
                    f"Request to assign label to version {version} of model {config.name}, which is not currently "
                    "available for inference"
                )

    async def serve_directory(self, models_dir: Path) -> None:
        """Serve every model of a directory; return when each has been tried once.

        Raises:
            NothingToServe: There is none, or none of them loads.
        """
        models = self._catalogue.apply(await asyncio.to_thread(models_of, models_dir))
        await asyncio.gather(*(model.attempted.wait() for model in models))
        if not any(model.available() for model in models):
            raise NothingToServe(f"None of the models in {models_dir} could be loaded; see above for the reasons")

    async def apply_directory(self, models_dir: Path) -> None:
        """Apply the changes of a directory; raises NothingToServe."""
        for model in self._catalogue.apply(await asyncio.to_thread(models_of, models_dir)):
            log.info("Found model %s", model.config.name)


async def settled(models: Sequence[Model], noun: str = "model") -> None:
    """Wait until each model is served, has failed, or has left the configuration. A missing directory is waited for.

    Args:
        models: New ones.
        noun: The word for a model in errors; the real server writes "servable" at the start, later "model".

    Raises:
        Unknown: A model did not become available.
    """
    await asyncio.gather(*(model.settled.wait() for model in models))
    failures = [
        f"{{{{name: {model.config.name} version: {record.number}}} due to error: {record.error}}}, "
        for model in models
        if not model.available()
        for record in model.records.values()
        if record.state is State.END and record.error
    ]
    if failures:
        raise Unknown(f"{len(failures)} {noun}(s) did not become available: {{{''.join(failures)}}}")


async def follow(apply: Callable[[Path], Awaitable[object]], noun: str, path: Path, poll_wait: float) -> None:
    """Apply a file or a directory every ``poll_wait`` seconds, changed or not, until cancelled; never if that is 0.

    As in the real server, the next reading of a file therefore reverts a reload over gRPC.
    """
    throttle = LogThrottle(log)
    while poll_wait > 0:
        await asyncio.sleep(poll_wait)
        try:
            await apply(path)
        except (ServingError, NothingToServe) as error:
            throttle.write(logging.ERROR, "Failed to read %s %s: %s. The served models stay", noun, path, error)
