"""Keep what is known of the models up to date: ask for versions, try a new one, and switch once it has answered.

The one wanted is the newest, or, given a label, the one that the label stands for. A version stays in use until the
server has another that answered. A model is *confirmed* while the server that answered the manifest is known to be
alive. After any sign of a restart its manifest is read again before the next inference, since what stands under the
same number might be another model. The card stays meanwhile: cached vectors are named by fingerprint, and right
whatever happens to the server.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from microtome.manifest import ModelCard
from service.core.ports import Pixels, Vectors
from service.errors import (
    DeadlineExceeded,
    ModelNotReady,
    ModelServerDown,
    ModelServerFault,
    Overloaded,
    ServiceError,
)
from service.model_server.codec import IMAGES, pixels_tensor, vectors
from service.model_server.manifests import fetch_manifest
from service.model_server.replicas import Replicas
from service.model_server.state import Served, Timing
from service.telemetry.logs import Logger
from service.telemetry.metrics import Metrics

AVAILABLE = "available"


class Upkeep:
    """Asks the model server, and writes down what it finds."""

    def __init__(  # noqa: PLR0913, collaborators
        self,
        rpc: Replicas,
        models: Mapping[str, Served],
        *,
        label: str | None,
        timing: Timing,
        metrics: Metrics,
        log: Logger,
        clock: Callable[[], float],
    ) -> None:
        self._rpc = rpc
        self._models = models
        self._label = label
        self._timing = timing
        self._metrics = metrics
        self._log = log
        self._clock = clock
        self._look_now = asyncio.Event()

    async def run(self) -> None:
        """Keep everything up to date until cancelled."""
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

    async def look(self, name: str) -> None:
        """Ask for the versions and settle on the first choice that answers. Hold the model's lock."""
        model = self._models[name]
        try:
            model.versions = await self._rpc.versions(name, timeout=self._timing.call)
            available = {number for number, state in model.versions.items() if state == AVAILABLE}
            if not available:
                raise ModelNotReady(f"No version of model {name!r} is ready.", retry_after=2)
            await self._settle(name, await self._choices(name, available))
        except ServiceError as error:
            self.lost(name, error)

    async def read(self, name: str, version: int, *, timeout: float | None = None) -> ModelCard:  # noqa: ASYNC109, gRPC's
        """Ask a version for its description, for as long as a call may take or for another time.

        Raises:
            ServiceError: see `manifests.py`.
        """
        manifest = await fetch_manifest(self._rpc, name, version, timeout=timeout or self._timing.call)
        self._models[name].answered_at = self._clock()
        return ModelCard(name, version, manifest)

    async def predict(
        self,
        card: ModelCard,
        outputs: Sequence[str],
        images: Sequence[Pixels],
        *,
        timeout: float,  # noqa: ASYNC109, handed on to gRPC
    ) -> Mapping[str, Vectors]:
        """Run a version on images, and note that it works.

        Raises:
            ServiceError: see `statuses.py` and `codec.py`.
        """
        answer = await self._rpc.predict(
            card.name, card.version, "serving_default", {IMAGES: pixels_tensor(images)}, list(outputs), timeout=timeout
        )
        found = vectors(answer, card, outputs, rows=len(images))
        model = self._models[card.name]
        model.worked_at = model.answered_at = self._clock()
        return found

    def lost(self, name: str, error: ServiceError) -> None:
        """Note that something failed, and look again soon."""
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
        if isinstance(error, ModelServerDown):
            model.versions = {}
        self._look_now.set()

    async def _refresh(self, name: str) -> None:
        model = self._models[name]
        async with model.looking:
            await self.look(name)
        ready = model.trouble(self._clock(), self._timing) is None
        self._metrics.model_ready.labels(name).set(ready)

    async def _choices(self, name: str, available: Collection[int]) -> list[int]:
        """Return the versions in the order in which they are wanted: the newest first, or the labelled one.

        While the label stands for nothing, or for another version on another server, the one in use is kept.
        """
        newest = sorted(available, reverse=True)
        if self._label is None:
            return newest
        labelled = await self._rpc.labelled(name, self._label, timeout=self._timing.call)
        card = self._models[name].card
        first = (labelled, card.version if card is not None else None)
        kept = [version for version in first if version is not None and version in available]
        return list(dict.fromkeys(kept + newest))

    async def _settle(self, name: str, versions: Sequence[int]) -> None:
        model = self._models[name]
        for version in versions:
            card = model.card
            well = model.confirmed and model.error is None
            if card is not None and card.version == version and well and await self._still_works(card):
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
        try:
            card = await self.read(name, version)
            await self._probe(card)
        except ServiceError:
            raise
        except Exception as error:
            # Whatever a version is like that nobody foresaw, it harms no other, and all models are looked after still.
            if version not in self._models[name].refused:
                self._log.exception("model_version_broken", model=name, version=version)
            raise ModelServerFault("The version has something that nobody foresaw; the log says what.") from error
        model = self._models[name]
        if model.card != card:
            self._log.info("model_version", model=name, version=version, fingerprint=card.manifest.fingerprint)
        elif model.error is not None:
            self._log.info("model_up", model=name, version=version)
        model.card, model.confirmed, model.error = card, True, None
        model.refused.discard(version)
        self._metrics.model_version.labels(name).set(version)

    async def _still_works(self, card: ModelCard) -> bool:
        """Make sure of a version that nobody has asked lately; False when another model stands under its number now.

        Its manifest comes out of the session that inferences run in, through the same queue and threads, and costs
        next to nothing. An image costs what an image costs, at every gateway and for every model, and whoever asks for
        another model meanwhile waits for it: so that is rare.
        """
        model = self._models[card.name]
        silent = self._clock() - model.answered_at > self._timing.ask_after
        # As patient as an inference, since it waits where one would.
        if silent and await self.read(card.name, card.version, timeout=self._timing.infer) != card:
            return False
        if self._clock() - model.worked_at > self._timing.try_after:
            await self._probe(card)
        return True

    async def _probe(self, card: ModelCard) -> None:
        """Run one black image through the default output: only an inference proves that inference works."""
        black = np.zeros((card.manifest.input.height, card.manifest.input.width, 3), np.uint8)
        await self.predict(card, [card.manifest.default_output], [black], timeout=self._timing.infer)
