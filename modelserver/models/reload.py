"""The set of models that is served: at the start, and as requests, a file or a directory change it."""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

from google.protobuf import text_format
from tensorflow_serving.apis import model_management_pb2
from tensorflow_serving.config import model_server_config_pb2

from modelserver.config.logs import LogThrottle
from modelserver.config.options import Options
from modelserver.errors import FailedPrecondition, InvalidArgument, ServingError, Unknown
from modelserver.models.catalogue import Catalogue
from modelserver.models.model import Model
from modelserver.models.model_config import ModelConfig, NothingToServe, models_of, read_configs
from modelserver.models.version_policy import State

log = logging.getLogger(__name__)


class Reloader:
    """Replaces the configuration, one request after the other.

    Args:
        catalogue: The models to configure.
        labels_may_wait: Whether a new label may name a version that is not loaded yet.
    """

    def __init__(self, catalogue: Catalogue, *, labels_may_wait: bool) -> None:
        self._catalogue = catalogue
        self._labels_may_wait = labels_may_wait
        self._turn = asyncio.Lock()

    async def reload(
        self, request: model_management_pb2.ReloadConfigRequest
    ) -> model_management_pb2.ReloadConfigResponse:
        """Answer a ``ReloadConfigRequest`` once every newly named model has settled.

        Unlike the real server, which first records a configuration and then checks it, a refused one changes nothing.

        Raises:
            InvalidArgument: The configuration is wrong.
            FailedPrecondition: A label names a version that is not available.
            Unknown: A new model did not become available.
        """
        served = {name for name, model in self._catalogue.models.items() if not model.retired}
        await self._apply(read_configs(request.config, served))
        return model_management_pb2.ReloadConfigResponse()

    async def follow_file(self, path: Path, poll_wait: float) -> None:
        """Apply a configuration file repeatedly, changed or not, until cancelled.

        As in the real server, the next reading therefore reverts a reload over gRPC.

        Args:
            path: The file.
            poll_wait: Seconds between two readings.
        """
        throttle = LogThrottle(log)
        while True:
            await asyncio.sleep(poll_wait)
            try:
                await self._apply(await asyncio.to_thread(_read_file, path))
            except ServingError as error:
                throttle.error("Failed to read ModelServerConfig file: %s. The served models stay", error)

    async def _apply(self, configs: Sequence[ModelConfig]) -> None:
        async with self._turn:
            for config in configs:
                self._check_labels(config)
            new = self._catalogue.apply(configs)
            await asyncio.gather(*(model.settled.wait() for model in new))
        _check_available(new, "model")

    def _check_labels(self, config: ModelConfig) -> None:
        model = self._catalogue.models.get(config.name)
        known = model.config.labels if model else {}
        available = model.available() if model else {}
        for label, version in config.labels.items():
            may_wait = self._labels_may_wait and label not in known
            if version not in available and not may_wait and known.get(label) != version:
                raise _not_available(config, version)


async def serve_named(catalogue: Catalogue, options: Options) -> None:
    """Serve the models that flags or a configuration file name; return when each has settled.

    A missing model directory is waited for.

    Raises:
        InvalidArgument: The file cannot be read, or is wrong.
        FailedPrecondition: It has labels, and no version is available yet.
        Unknown: A model has no version that loads.
    """
    configs: Sequence[ModelConfig] = [ModelConfig(options.model_name, Path(options.model_base_path))]
    if options.model_config_file:
        configs = _read_file(Path(options.model_config_file))
        for config in configs:
            # As in the real server, which resolves labels before anything is loaded.
            for version in config.labels.values():
                if not options.allow_version_labels_for_unavailable_models:
                    raise _not_available(
                        config,
                        version,
                        ". No version is at the start: see --allow_version_labels_for_unavailable_models",
                    )
    models = catalogue.apply(configs)
    await asyncio.gather(*(model.settled.wait() for model in models))
    _check_available(models, "servable")


async def serve_directory(catalogue: Catalogue, models_dir: Path) -> None:
    """Serve every model of a directory; return when each has been tried once.

    Raises:
        NothingToServe: There is none, or none of them loads.
    """
    models = catalogue.apply(await asyncio.to_thread(models_of, models_dir))
    await asyncio.gather(*(model.attempted.wait() for model in models))
    if not any(model.available() for model in models):
        raise NothingToServe(f"None of the models in {models_dir} could be loaded; see above for the reasons")


async def follow_directory(catalogue: Catalogue, models_dir: Path, poll_wait: float) -> None:
    """Apply changes of a directory to the catalogue, until cancelled.

    Args:
        catalogue: The models to configure.
        models_dir: The directory.
        poll_wait: Seconds between two looks.
    """
    throttle = LogThrottle(log)
    while True:
        await asyncio.sleep(poll_wait)
        try:
            configs = await asyncio.to_thread(models_of, models_dir)
        except NothingToServe as error:
            throttle.error("%s. The loaded models stay", error)
            continue
        for model in catalogue.apply(configs):
            log.info("Found model %s", model.config.name)


def _read_file(path: Path) -> Sequence[ModelConfig]:
    try:
        return read_configs(text_format.Parse(path.read_text(), model_server_config_pb2.ModelServerConfig()))
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise InvalidArgument(f"Invalid protobuf file: '{path}' ({error})") from error


def _not_available(config: ModelConfig, version: int, more: str = "") -> FailedPrecondition:
    return FailedPrecondition(
        f"Request to assign label to version {version} of model {config.name}, which is not currently available for "
        f"inference{more}"
    )


def _check_available(models: Sequence[Model], noun: str) -> None:
    """Raise Unknown, with names and reasons, when one of these settled models has no available version.

    Args:
        models: The models.
        noun: Their name in the text: at the start the real server writes "servable", after a reload "model".
    """
    failures = [
        f"{{{{name: {model.config.name} version: {record.number}}} due to error: {record.error}}}, "
        for model in models
        if not model.available()
        for record in model.records.values()
        if record.state is State.END
    ]
    if failures:
        raise Unknown(f"{len(failures)} {noun}(s) did not become available: {{{''.join(failures)}}}")
