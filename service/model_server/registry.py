"""The models and their versions in use, and whether they work; kept up to date by `watcher.py`."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from time import monotonic

from microtome.errors import DeadlineExceeded, ModelNotReady, ModelServerDown, UnknownModel, UnknownVersion
from microtome.manifest import ModelCard
from service.core.ports import Pixels, Vectors
from service.core.timeouts import Deadline
from service.core.timings import Stages, timed, unobserved
from service.errors import restated, unknown
from service.model_server.replica import AVAILABLE
from service.model_server.replicas import Replicas
from service.model_server.watcher import ModelState, Watcher, WatchTiming
from service.telemetry.logs import Logger
from service.telemetry.metrics import Metrics

_LOOKS, _LOOK_SECONDS = 4, 0.1
"""How often a successor is looked for, and how long apart."""


class ModelRegistry:
    """The models served here, kept up to date by `run`. Implements the core's `ModelServer` port."""

    def __init__(  # noqa: PLR0913, collaborators
        self,
        servers: Replicas,
        models: Sequence[str],
        *,
        label: str | None = None,
        timing: WatchTiming,
        metrics: Metrics,
        log: Logger,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Know nothing yet.

        Args:
            servers: the model servers.
            models: names of the models to watch.
            label: the version that has it is used; None for the newest.
            timing: intervals and timeouts.
            metrics: show which version is in use, and whether it is ready.
            log: told of changes.
            clock: seconds.
        """
        self._servers = servers
        self._models = {name: ModelState() for name in models}
        self._timing = timing
        self._clock = clock
        self._watcher = Watcher(
            servers, self._models, label=label, timing=timing, metrics=metrics, log=log, clock=clock
        )

    async def run(self) -> None:
        """Keep the registry up to date until cancelled."""
        await self._watcher.run()

    def cards(self) -> dict[str, ModelCard | None]:
        """Return every model by name, with the version in use, if any has answered yet."""
        return {name: model.card for name, model in self._models.items()}

    def readiness(self) -> dict[str, str | None]:
        """Return every model by name: None when it answers and inference works, else what is wrong, for people."""
        now = self._clock()
        return {name: model.trouble(now, self._timing) for name, model in self._models.items()}

    def versions(self, model: str) -> Mapping[int, str]:
        """Return every version of a model with its state; see the port."""
        return self._served(model).versions

    def card(self, model: str) -> ModelCard:
        """Return the version of a model that requests go to now; see the port."""
        entry = self._served(model)
        if entry.card is not None:
            return entry.card
        if isinstance(entry.error, ModelServerDown | ModelNotReady):
            raise restated(entry.error)
        raise ModelNotReady(
            f"No version of model {model!r} has answered yet. Try again in a few seconds.", retry_after=2
        )

    async def card_of(self, model: str, version: int) -> ModelCard:
        """Return exactly this version; see the port."""
        entry = self._served(model)
        if entry.card is not None and entry.card.version == version:
            return entry.card
        if version in entry.pinned:
            return entry.pinned[version]
        states = await self._servers.versions(model, timeout=self._timing.call)
        if states.get(version) != AVAILABLE:
            known = sorted((number for number, state in states.items() if state == AVAILABLE), reverse=True)
            listed = ", ".join(map(str, known)) or "none"
            raise UnknownVersion(f"Model {model!r} has no version {version}. Available: {listed}.")
        entry.pinned[version] = found = await self._watcher.find(model, version)
        return found

    def concurrency(self, model: str) -> int:
        """Return how many servers calls of a model can go to now, at least 1."""
        card = self._models[model].card
        return max(1, self._servers.serving(card)) if card is not None else 1

    async def renewed(self, card: ModelCard) -> ModelCard:
        """Look now for the version that has replaced `card`; see the port."""
        model = self._models[card.name]
        for _ in range(_LOOKS):
            async with model.lock:
                if model.card == card:
                    await self._watcher.poll(card.name)
            if model.card != card or model.error is not None:
                break
            # A server that unloads a version may say for a moment longer that it has it.
            await asyncio.sleep(_LOOK_SECONDS)
        return self.card(card.name)

    async def infer(
        self,
        card: ModelCard,
        outputs: Sequence[str],
        images: Sequence[Pixels],
        stages: Stages = unobserved,
        deadline: Deadline | None = None,
    ) -> Mapping[str, Vectors]:
        """Run the version of `card`; see the port."""
        model = self._models[card.name]
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
        if model not in self._models:
            raise UnknownModel(unknown("model", model, self._models))
        return self._models[model]
