"""All models, and the lookup of the version that a request means."""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence

from microtome.tfserving.v1 import serving_pb2 as pb
from modelserver.batching.version import Version
from modelserver.errors import InvalidArgument, NotFound
from modelserver.models.model import Loading, Model, VersionRecord
from modelserver.models.model_config import ModelConfig

log = logging.getLogger(__name__)


class Catalogue:
    """The models that are or were configured, by name.

    Args:
        loading: How versions are loaded.
    """

    def __init__(self, loading: Loading) -> None:
        self._loading = loading
        self._models: dict[str, Model] = {}
        self._watches: set[asyncio.Task[None]] = set()

    @property
    def models(self) -> Mapping[str, Model]:
        """Every model that was ever configured; its records have the states of its versions."""
        return self._models

    def apply(self, configs: Iterable[ModelConfig]) -> Sequence[Model]:
        """Replace the whole set; models that are not named are unloaded after their last requests.

        Returns:
            The models that were not served before; their ``settled`` is set once they are loaded or have failed.
        """
        wanted = {config.name: config for config in configs}
        for name, known in self._models.items():
            if name not in wanted and not known.retired:
                known.retire()
        new = []
        for name, config in wanted.items():
            model = self._models.get(name)
            if model is None:
                new.append(self._add(config))
                continue
            if model.retired:
                new.append(model)
            if model.retired or model.config != config:
                model.configure(config)
        return new

    def _add(self, config: ModelConfig) -> Model:
        model = self._models[config.name] = Model(config, self._loading)
        watch = asyncio.create_task(model.watch(), name=f"watch {config.name}")
        self._watches.add(watch)
        watch.add_done_callback(self._report)
        return model

    def _report(self, watch: "asyncio.Task[None]") -> None:
        """Log a watch that ended without being cancelled, which is a defect."""
        self._watches.discard(watch)
        if not watch.cancelled() and (error := watch.exception()):
            log.critical("%s ended", watch.get_name(), exc_info=error)

    def find(self, model_spec: pb.ModelSpec) -> Version:
        """Return the version that a ``tensorflow.serving.ModelSpec`` means.

        An explicit version means exactly that one, a label the version that it names, neither the highest loaded.

        Raises:
            InvalidArgument: No name, or an unknown label.
            NotFound: No such model, or the version is not loaded.
        """
        name = model_spec.name
        if not name:
            raise InvalidArgument("ModelSpec has no name specified.")
        model = self._models.get(name)
        available = model.available() if model else {}
        match model_spec.WhichOneof("version_choice"):
            case "version":
                version = model_spec.version.value
            case "version_label":
                version = self._resolve(model, model_spec.version_label)
            case _:
                if not available:
                    raise NotFound(f"Servable not found for request: Latest({name})")
                version = max(available)
        if version not in available:
            raise NotFound(f"Servable not found for request: Specific({name}, {version})")
        return available[version]

    @staticmethod
    def _resolve(model: Model | None, label: str) -> int:
        labels = model.config.labels if model else {}
        if label not in labels:
            raise InvalidArgument(f"Unrecognized servable version label: {label}")
        return labels[label]

    def records(self, name: str, version: int | None) -> Sequence[VersionRecord]:
        """List the records of a model's versions, the highest first.

        Raises:
            NotFound: The model or that version is unknown.
        """
        model = self._models.get(name)
        records = model.records if model else {}
        if not records:
            raise NotFound(f"Could not find any versions of model {name}")
        if version is None:
            return [records[number] for number in sorted(records, reverse=True)]
        if version not in records:
            raise NotFound(f"Could not find version {version} of model {name}")
        return [records[version]]

    async def close(self) -> None:
        """Stop watching; loaded versions stay until the process ends."""
        for watch in list(self._watches):
            watch.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)
