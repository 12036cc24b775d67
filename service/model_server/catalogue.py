"""Which version of which model requests go to now, and whether it really works.

The catalogue asks the model server for its versions, reads a new version's manifest from the model itself, runs one
inference, and only then sends requests there. A version stays in use until the server has another that answered.

A model is *confirmed* while the server that answered the manifest is known to be alive. After any sign of a restart its
manifest is read again before the next inference, since what stands under the same number might be another model. The
card stays meanwhile: cached vectors are named by fingerprint, and right whatever happens to the server.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic

import numpy as np

from service.embedding.manifest import ModelCard
from service.embedding.ports import Pixels, Vectors
from service.embedding.stopwatch import Stages, nobody, timed
from service.errors import (
    DeadlineExceeded,
    ModelNotReady,
    ModelServerDown,
    Overloaded,
    ServiceError,
    UnknownModel,
    UnknownVersion,
    unknown,
)
from service.model_server.codec import IMAGES, pixels_tensor, vectors
from service.model_server.manifests import fetch_manifest
from service.model_server.replicas import Replicas
from service.telemetry.logs import Logger
from service.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. `probe_after`: an idle model is tried again; `ready_for`: so long one inference proves readiness."""

    poll: float = 1.0
    retry: float = 0.2
    call: float = 2.0
    infer: float = 30.0
    probe_after: float = 4.0
    ready_for: float = 10.0


@dataclass(slots=True)
class _Model:
    card: ModelCard | None = None
    confirmed: bool = False
    worked_at: float = float("-inf")
    error: ServiceError | None = None
    pinned: dict[int, ModelCard] = field(default_factory=dict)
    refused: set[int] = field(default_factory=set)
    looking: asyncio.Lock = field(default_factory=asyncio.Lock)


class Catalogue:
    """The models served here, kept up to date by `run`. Implements the core's `ModelServer` port."""

    def __init__(  # noqa: PLR0913, collaborators
        self,
        rpc: Replicas,
        models: Sequence[str],
        *,
        timing: Timing,
        metrics: Metrics,
        log: Logger,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._rpc = rpc
        self._models = {name: _Model() for name in models}
        self._timing = timing
        self._metrics = metrics
        self._log = log
        self._clock = clock
        self._look_now = asyncio.Event()

    async def run(self) -> None:
        """Keep the catalogue up to date until cancelled."""
        while True:
            self._look_now.clear()
            await asyncio.gather(*(self._refresh(name) for name in self._models))
            well = all(model.confirmed for model in self._models.values())
            try:
                async with asyncio.timeout(self._timing.poll if well else self._timing.retry):
                    await self._look_now.wait()
                # Somebody met a failure: look again soon, but not in a busy loop.
                await asyncio.sleep(self._timing.retry)
            except TimeoutError:
                pass

    def cards(self) -> dict[str, ModelCard | None]:
        """Return every model by name, with the version in use, if any has answered yet."""
        return {name: model.card for name, model in self._models.items()}

    def readiness(self) -> dict[str, str | None]:
        """Return every model by name: None when an inference has recently worked, else what is wrong, for people."""
        return {name: self._trouble(model) for name, model in self._models.items()}

    def card(self, model: str) -> ModelCard:
        """Return the version of a model that requests go to now; see the port."""
        if model not in self._models:
            raise UnknownModel(unknown("model", model, self._models))
        entry = self._models[model]
        if entry.card is not None:
            return entry.card
        if isinstance(entry.error, ModelServerDown):
            raise _again(entry.error)
        raise ModelNotReady(
            f"No version of model {model!r} has answered yet. Try again in a few seconds.", retry_after=2
        )

    async def card_of(self, model: str, version: int) -> ModelCard:
        """Return exactly this version; see the port."""
        if model not in self._models:
            raise UnknownModel(unknown("model", model, self._models))
        entry = self._models[model]
        if entry.card is not None and entry.card.version == version:
            return entry.card
        if version in entry.pinned:
            return entry.pinned[version]
        available = await self._rpc.available_versions(model, timeout=self._timing.call)
        if version not in available:
            listed = ", ".join(map(str, available)) or "none"
            raise UnknownVersion(f"Model {model!r} has no version {version}. Available: {listed}.")
        return entry.pinned.setdefault(version, await self._read(model, version))

    async def renewed(self, card: ModelCard) -> ModelCard:
        """Look at once for the version that has taken the place of `card`; see the port."""
        model = self._models[card.name]
        async with model.looking:
            if model.card == card:
                await self._look(card.name)
        return self.card(card.name)

    async def infer(
        self, card: ModelCard, outputs: Sequence[str], images: Sequence[Pixels], stages: Stages = nobody
    ) -> Mapping[str, Vectors]:
        """Run the version of `card`; see the port."""
        model = self._models[card.name]
        if not model.confirmed and model.error is not None:
            raise _again(model.error)
        try:
            with timed(stages, "infer"):
                return await self._predict(card, outputs, images, timeout=self._timing.infer)
        except ModelServerDown as error:
            self._lost(card.name, error)
            raise
        except ModelNotReady:
            model.pinned.pop(card.version, None)
            raise

    async def _predict(
        self,
        card: ModelCard,
        outputs: Sequence[str],
        images: Sequence[Pixels],
        *,
        timeout: float,  # noqa: ASYNC109, handed on to gRPC
    ) -> Mapping[str, Vectors]:
        answer = await self._rpc.predict(
            card.name, card.version, "serving_default", {IMAGES: pixels_tensor(images)}, list(outputs), timeout=timeout
        )
        found = vectors(answer, card, outputs, rows=len(images))
        self._worked(card.name)
        return found

    async def _refresh(self, name: str) -> None:
        model = self._models[name]
        async with model.looking:
            await self._look(name)
        self._metrics.model_ready.labels(name).set(self._trouble(model) is None)

    async def _look(self, name: str) -> None:
        """Ask for the versions and settle on the newest that answers."""
        try:
            versions = await self._rpc.available_versions(name, timeout=self._timing.call)
            if not versions:
                raise ModelNotReady(f"No version of model {name!r} is ready.", retry_after=2)
            await self._settle(name, versions)
        except ServiceError as error:
            self._lost(name, error)

    async def _settle(self, name: str, versions: Sequence[int]) -> None:
        model = self._models[name]
        for version in versions:
            card = model.card
            if card is not None and card.version == version and model.confirmed and model.error is None:
                if self._clock() - model.worked_at > self._timing.probe_after:
                    await self._probe(card)
                return
            try:
                await self._switch(name, version)
            except ModelServerDown:
                raise
            except ServiceError as error:
                # A version that does not answer is passed over; the one in use stays in use as long as it is served.
                if version not in model.refused:
                    self._log.warning("model_version_refused", model=name, version=version, reason=str(error))
                    model.refused.add(version)
                if version == versions[-1]:
                    raise
            else:
                return

    async def _switch(self, name: str, version: int) -> None:
        """Read a version's manifest, try it, and send requests there from now on."""
        card = await self._read(name, version)
        await self._probe(card)
        model = self._models[name]
        if model.card != card:
            self._log.info("model_version", model=name, version=version, fingerprint=card.manifest.fingerprint)
        elif model.error is not None:
            self._log.info("model_up", model=name, version=version)
        model.card, model.confirmed, model.error = card, True, None
        model.refused.discard(version)
        self._metrics.model_version.labels(name).set(version)

    async def _read(self, name: str, version: int) -> ModelCard:
        return ModelCard(name, version, await fetch_manifest(self._rpc, name, version, timeout=self._timing.call))

    async def _probe(self, card: ModelCard) -> None:
        """Run one black image through the default output: only an inference proves that inference works."""
        black = np.zeros((card.manifest.input.height, card.manifest.input.width, 3), np.uint8)
        await self._predict(card, [card.manifest.default_output], [black], timeout=self._timing.infer)

    def _worked(self, name: str) -> None:
        self._models[name].worked_at = self._clock()

    def _lost(self, name: str, error: ServiceError) -> None:
        model = self._models[name]
        if type(error) is not type(model.error):
            # At the start the gateway is often up before its model server, which is nothing to worry about.
            say = self._log.info if model.card is None else self._log.warning
            say("model_down", model=name, reason=str(error))
        model.error = error
        # A slow or busy server is no sign of another server; everything else may be one.
        if not isinstance(error, DeadlineExceeded | Overloaded):
            model.confirmed = False
            model.pinned.clear()
        self._look_now.set()

    def _trouble(self, model: _Model) -> str | None:
        if model.error is not None:
            return str(model.error)
        if self._clock() - model.worked_at > self._timing.ready_for:
            return "No inference has worked recently."
        return None


def _again(error: ServiceError) -> ServiceError:
    """Make a fresh copy to raise: one exception instance raised by many requests would collect all their tracebacks."""
    return type(error)(str(error))
