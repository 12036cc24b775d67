"""What is served from the start: reads where the options point, and waits until it has been tried."""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from modelserver.catalogue import Catalogue
from modelserver.errors import FailedPrecondition, InvalidArgument, ServingError
from modelserver.model_config import ModelConfig, read_configs
from modelserver.models_directory import NothingToServe, models_of
from modelserver.options import Options
from modelserver.recurring_log import RecurringLog
from modelserver.reload import Reloader, check_available

log = logging.getLogger(__name__)


def named_models(options: Options) -> Sequence[ModelConfig]:
    """Read the models that flags or a configuration file name.

    Raises:
        InvalidArgument: The file cannot be read, or is wrong.
        FailedPrecondition: It has labels, which cannot be held yet.
    """
    if not options.model_config_file:
        return [ModelConfig(options.model_name, Path(options.model_base_path))]
    configs = _read_file(Path(options.model_config_file))
    if not options.allow_version_labels_for_unavailable_models:
        _refuse_labels(configs)
    return configs


def _read_file(path: Path) -> Sequence[ModelConfig]:
    try:
        return read_configs(text_format.Parse(path.read_text(), model_server_config_pb2.ModelServerConfig()))
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise InvalidArgument(f"Invalid protobuf file: '{path}' ({error})") from error


async def follow_file(reloader: Reloader, path: Path, poll_wait: float) -> None:
    """Apply a configuration file over and over, changed or not, until cancelled.

    Whatever a reload over gRPC has changed is so taken back at the next look, as the real server does it.

    Args:
        reloader: What applies it.
        path: The file.
        poll_wait: Seconds between two looks.
    """
    complaints = RecurringLog(log)
    while True:
        await asyncio.sleep(poll_wait)
        try:
            await reloader.apply(await asyncio.to_thread(_read_file, path))
        except ServingError as error:
            complaints.error("Failed to read ModelServerConfig file: %s. What is served stays", error)


def _refuse_labels(configs: Iterable[ModelConfig]) -> None:
    """Fail as the real server does, which resolves labels before anything is loaded."""
    for config in configs:
        for version in config.labels.values():
            raise FailedPrecondition(
                f"Request to assign label to version {version} of model {config.name}, which is not currently "
                "available for inference. At the start nothing is yet: see "
                "--allow_version_labels_for_unavailable_models"
            )


async def serve_named(catalogue: Catalogue, configs: Sequence[ModelConfig]) -> None:
    """Begin to serve these models, and return when each has settled; a missing directory is waited for.

    Raises:
        Unknown: One of them has no version that loads.
    """
    models = catalogue.apply(configs)
    await asyncio.gather(*(model.settled.wait() for model in models))
    check_available(models)


async def serve_directory(catalogue: Catalogue, models_dir: Path) -> None:
    """Begin to serve every model of a directory, and return when each has been tried once.

    Raises:
        NothingToServe: There is none.
        Unknown: None of them loads.
    """
    models = catalogue.apply(await asyncio.to_thread(models_of, models_dir))
    await asyncio.gather(*(model.attempted.wait() for model in models))
    if not any(model.servables() for model in models):
        raise NothingToServe(f"None of the models in {models_dir} could be loaded; see above for the reasons")


async def follow_directory(catalogue: Catalogue, models_dir: Path, poll_wait: float) -> None:
    """Keep the catalogue as the directory is, until cancelled.

    Args:
        catalogue: What to keep.
        models_dir: What to look at.
        poll_wait: Seconds between two looks.
    """
    complaints = RecurringLog(log)
    while True:
        await asyncio.sleep(poll_wait)
        try:
            configs = await asyncio.to_thread(models_of, models_dir)
        except NothingToServe as error:
            complaints.error("%s. What is loaded stays", error)
            continue
        for model in catalogue.apply(configs):
            log.info("Found model %s", model.config.name)
