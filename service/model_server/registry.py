"""The models and their versions in use, and whether they work; kept up to date by `watcher.py`."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from time import monotonic

from microtome.errors import (
    BadRequest,
    DeadlineExceeded,
    ModelNotReady,
    ModelServerDown,
    ModelServerFault,
    ServiceError,
    UnknownModel,
    UnknownVersion,
)
from microtome.manifest import ModelCard
from service.core.ports import Family, Pixels, Tokens, Towers, Vectors
from service.core.timeouts import Deadline
from service.core.timings import Stages, timed, unobserved
from service.errors import of_model, restated, unknown
from service.model_server.families import Families
from service.model_server.replicas import Replicas
from service.model_server.versions import AVAILABLE
from service.model_server.watcher import ModelState, Watcher, WatchTiming
from service.telemetry.logs import Logger
from service.telemetry.metrics import Metrics

_LOOKS, _LOOK_SECONDS = 4, 0.1
"""How often a successor is looked for, and how long apart."""

_UNLISTED = (
    "set MICROTOME_MODELS_CONFIG to the models.config that TensorFlow Serving reads, or name the models in "
    "MICROTOME_MODELS"
)

Listing = Callable[[], Awaitable[Collection[str]]]
"""Returns the names of the models that the servers are configured to serve.

Raises ServiceError while they are not known.
"""


def is_pattern(model: str) -> bool:
    """Whether an entry of MICROTOME_MODELS stands for all models whose names match it."""
    return any(character in model for character in "*?[")


def models_config(path: Path) -> Listing:
    """Return the listing of a `models.config`, TensorFlow Serving's configuration file."""

    def names() -> set[str]:
        # Imported here since only gateways with a pattern and this file need it.
        from google.protobuf import text_format  # noqa: PLC0415

        from microtome.tfserving.v1.model_server_config_pb2 import ModelServerConfig  # noqa: PLC0415

        try:
            text = path.read_text(encoding="utf-8")
            config = text_format.Parse(text, ModelServerConfig(), allow_unknown_field=True)
        except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
            raise ModelServerFault(f"{path} cannot be read as a ModelServerConfig: {error}") from None
        return {entry.name for entry in config.model_config_list.config}

    return partial(asyncio.to_thread, names)


class ModelRegistry:
    """The models served here, kept up to date by `run`. Implements the core's `ModelServer` port."""

    def __init__(  # noqa: PLR0913, collaborators
        self,
        servers: Replicas,
        models: Sequence[str],
        *,
        listing: Listing | None = None,
        label: str | None = None,
        timing: WatchTiming,
        metrics: Metrics,
        log: Logger,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Know nothing yet.

        Args:
            servers: the model servers.
            models: names of the models to watch, and patterns of those that are taken up while servers have them.
            listing: finds models for the patterns; None asks the servers.
            label: the version that has it is used; None for the newest.
            timing: intervals and timeouts.
            metrics: show which version is in use, and whether it is ready.
            log: told of changes.
            clock: seconds.
        """
        self._servers = servers
        self._fixed = [name for name in models if not is_pattern(name)]
        self._patterns = [name for name in models if is_pattern(name)]
        self._listing = listing or partial(servers.listed, timeout=timing.call)
        self._unlisted = ""
        self._models = {name: ModelState() for name in self._fixed}
        self._timing = timing
        self._metrics = metrics
        self._log = log
        self._clock = clock
        self._families = Families(servers, self._models, wait=timing.call, metrics=metrics, log=log)
        self._watcher = Watcher(
            servers, self._models, self._families, label=label, timing=timing, metrics=metrics, log=log, clock=clock
        )

    async def run(self) -> None:
        """Keep the registry up to date until cancelled."""
        following = asyncio.create_task(self._follow()) if self._patterns else None
        try:
            await self._watcher.run()
        finally:
            if following is not None:
                following.cancel()

    async def _follow(self) -> None:
        """Take up and drop models that match a pattern, until cancelled."""
        while True:
            try:
                listed = await self._listing()
            except ServiceError as error:
                # What is known stays. A server that is down has a line of its own.
                if self._unlisted != str(error) and isinstance(error, ModelServerFault):
                    self._log.warning("models_not_listed", reason=str(error), advice=_UNLISTED)
                self._unlisted = str(error)
            else:
                self._unlisted = ""
                await self._adopt(listed)
                await self._drop(listed)
            await asyncio.sleep(self._timing.poll)

    async def _adopt(self, listed: Collection[str]) -> None:
        """Take up each listed model that matches a pattern once a server has a version of it."""
        for name in sorted(listed):
            if name in self._models or not any(fnmatchcase(name, pattern) for pattern in self._patterns):
                continue
            try:
                states = await self._servers.versions(name, timeout=self._timing.call)
            except ServiceError:
                states = {}
            if AVAILABLE in states.values():
                self._models[name] = ModelState()
                self._log.info("model_added", model=name)
                self._watcher.look()
            else:
                self._servers.drop(name)

    async def _drop(self, listed: Collection[str]) -> None:
        """Drop each model that is listed no more once no server has a version of it."""
        for name, model in list(self._models.items()):
            if name in self._fixed or name in listed or self._servers.anywhere(name):
                continue
            # Not while it is polled.
            async with model.lock:
                del self._models[name]
                self._servers.drop(name)
                self._metrics.model_dropped(name)
                self._log.info("model_removed", model=name)

    def cards(self) -> dict[str, ModelCard | None]:
        """Return every model by name, with the version in use, if any has answered yet."""
        return {name: model.card for name, model in self._models.items()}

    def readiness(self) -> dict[str, str | None]:
        """Return every model and family by name: None when it answers and inference works, else what is wrong."""
        now = self._clock()
        troubles = {name: model.trouble(now, self._timing) for name, model in self._models.items()}
        return troubles | {name: family.trouble for name, family in self._families.all(troubles).items()}

    def families(self) -> Mapping[str, Family]:
        """Return every family by name; see the port."""
        return self._families.all(self.readiness())

    def towers(self, model: str) -> Towers:
        """Return the versions that images and texts go to; see the port."""
        name = self._named(model)
        return self._families.towers(name) if name in self._families else Towers.alone(self.card(name))

    def _named(self, name: str) -> str:
        """Return the name of a model or a family; of an empty one, where no model is the default, the only one's.

        Raises:
            ServiceError: as `of_model` does; ModelNotReady while a model that has not answered may be of that family.
        """
        if name in self._models:
            return name
        families = self._families.named()
        if not name:
            towers = {its for members in families.values() for its in members}
            return of_model("", {its: its for its in (*(its for its in self._models if its not in towers), *families)})
        if name not in families:
            silent = [its for its in self._fixed if self._models[its].card is None]
            known = unknown("model", name, [*self._models, *families])
            if silent:
                listed = ", ".join(map(repr, silent[:8]))
                raise ModelNotReady(f"{known} It may be a family, and {listed} has not answered yet.", retry_after=2)
            raise UnknownModel(known)
        return name

    def versions(self, model: str) -> Mapping[int, str]:
        """Return every version of a model with its state; see the port."""
        return self._served(model).versions

    def engines(self, card: ModelCard) -> Sequence[str]:
        """Return what computes a version; see the port."""
        return self._servers.engines(card)

    def card(self, model: str) -> ModelCard:
        """Return the version of a model that requests go to now; see the port."""
        entry = self._models.get(model)
        if entry is None:
            name = self._named(model)
            if name in self._families:
                return self._families.towers(name).of("Image")
            entry = self._models[name]
        if entry.card is not None:
            return entry.card
        if isinstance(entry.error, ModelServerDown | ModelNotReady):
            raise restated(entry.error)
        raise ModelNotReady(
            f"No version of model {model!r} has answered yet. Try again in a few seconds.", retry_after=2
        )

    async def card_of(self, model: str, version: int) -> ModelCard:
        """Return exactly this version; see the port."""
        name = self._named(model)
        if name in self._families:
            towers = " or ".join(self._families.named()[name])
            raise BadRequest(
                f"Expected `version` with the name of one model; {name!r} is a family, whose models have versions of "
                f"their own. Name {towers}."
            )
        entry = self._models[name]
        if entry.card is not None and entry.card.version == version:
            return entry.card
        if version in entry.pinned:
            return entry.pinned[version]
        states = await self._servers.versions(name, timeout=self._timing.call)
        if states.get(version) != AVAILABLE:
            known = sorted((number for number, state in states.items() if state == AVAILABLE), reverse=True)
            listed = ", ".join(map(str, known)) or "none"
            raise UnknownVersion(f"Model {name!r} has no version {version}. Available: {listed}.")
        entry.pinned[version] = found = await self._watcher.find(name, version)
        return found

    def concurrency(self, model: str) -> int:
        """Return how many servers calls of a model can go to now, at least 1."""
        entry = self._models.get(model)
        return max(1, self._servers.serving(entry.card)) if entry is not None and entry.card is not None else 1

    async def renewed(self, card: ModelCard, model: str = "") -> ModelCard:
        """Look now for the version that has replaced `card`; see the port."""
        state = self._served(card.name)
        if state.card == card:
            # One look for all requests that met the same version's end.
            if state.renewing is None or state.renewing.done():
                state.renewing = asyncio.create_task(self._renew(state, card))
            await asyncio.shield(state.renewing)
        name = self._named(model or card.name)
        if name in self._families:
            await self._families.renewed(name)
        return self.card(name)

    async def _renew(self, model: ModelState, card: ModelCard) -> None:
        for _ in range(_LOOKS):
            async with model.lock:
                if model.card == card and self._models.get(card.name) is model:
                    await self._watcher.poll(card.name)
            if model.card != card or model.error is not None:
                break
            # A server that unloads a version may say for a moment longer that it has it.
            await asyncio.sleep(_LOOK_SECONDS)

    async def infer(
        self,
        card: ModelCard,
        outputs: Sequence[str],
        images: Sequence[Pixels | Tokens],
        stages: Stages = unobserved,
        deadline: Deadline | None = None,
    ) -> Mapping[str, Vectors]:
        """Run the version of `card`; see the port."""
        model = self._served(card.name)
        seconds = min(self._timing.infer, deadline.left()) if deadline else self._timing.infer
        if seconds <= 0:
            raise DeadlineExceeded("The time allowed was over before the model server was asked.")
        try:
            with timed(stages, "infer"):
                return await self._watcher.predict(card, outputs, images, timeout=seconds)
        except ModelServerDown as error:
            self._watcher.lost(card.name, error)
            raise
        except ModelNotReady:
            model.pinned.pop(card.version, None)
            raise

    def _served(self, model: str) -> ModelState:
        return of_model(model, self._models)
