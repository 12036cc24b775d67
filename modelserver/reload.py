"""HandleReloadConfigRequest, without a transport: replaces the set of models and waits for the new ones."""

import asyncio
from collections.abc import Sequence

from tensorflow_serving.apis import model_management_pb2

from modelserver.catalogue import Catalogue
from modelserver.errors import FailedPrecondition, Unknown
from modelserver.model_config import ModelConfig, read_configs
from modelserver.served_model import ServedModel
from modelserver.version_policy import State


class Reloader:
    """Replaces the configuration, one request after the other.

    Args:
        catalogue: What to configure.
        labels_may_wait: Whether a new label may point at a version that is not loaded yet.
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
            FailedPrecondition: A label points at a version that is not available.
            Unknown: A new model did not become available.
        """
        served = {name for name, model in self._catalogue.models.items() if not model.retired}
        await self.apply(read_configs(request.config, served))
        return model_management_pb2.ReloadConfigResponse()

    async def apply(self, configs: Sequence[ModelConfig]) -> None:
        """Replace the set of models, as ``reload`` does.

        Raises:
            FailedPrecondition: A label points at a version that is not available.
            Unknown: A new model did not become available.
        """
        async with self._turn:
            for config in configs:
                self._check_labels(config)
            new = self._catalogue.apply(configs)
            await asyncio.gather(*(model.settled.wait() for model in new))
        check_available(new, "model")

    def _check_labels(self, config: ModelConfig) -> None:
        model = self._catalogue.models.get(config.name)
        known = model.config.labels if model else {}
        available = model.servables() if model else {}
        for label, version in config.labels.items():
            may_wait = self._labels_may_wait and label not in known
            if version not in available and not may_wait and known.get(label) != version:
                raise FailedPrecondition(
                    f"Request to assign label to version {version} of model {config.name}, which is not currently "
                    "available for inference"
                )


def check_available(models: Sequence[ServedModel], noun: str = "servable") -> None:
    """Make sure that each of these models, all settled, has a version that answers.

    Args:
        models: The models.
        noun: What the text calls them: at the start the real server says "servable", after a reload "model".

    Raises:
        Unknown: Some have none; the text names them and why.
    """
    failures = [
        f"{{{{name: {model.config.name} version: {record.version}}} due to error: {record.error}}}, "
        for model in models
        if not model.servables()
        for record in model.records.values()
        if record.state is State.END
    ]
    if failures:
        raise Unknown(f"{len(failures)} {noun}(s) did not become available: {{{''.join(failures)}}}")
