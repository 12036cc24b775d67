"""Watch the models: poll for versions, try a new one, and switch to it once it has answered.

The wanted version is the newest, or the one that has the label. A version stays in use until another one has answered.
A model is *confirmed* while the server that answered its manifest is known to be up. After any sign of a restart the
manifest is read again before the next inference, since the same number may be another model now. The card stays
meanwhile: cached vectors are keyed by fingerprint, and stay right.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from microtome.errors import (
    DeadlineExceeded,
    ModelNotReady,
    ModelServerDown,
    ModelServerFault,
    Overloaded,
    ServiceError,
)
from microtome.manifest import ModelCard
from service.core.ports import Pixels, Vectors
from service.model_server.acceptance import Acceptance, Replica
from service.model_server.predict_encoding import IMAGES, pixels_tensor, vectors
from service.model_server.replicas import Replicas
from service.telemetry.logs import Logger
from service.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True)
class WatchTiming:
    """Seconds. An idle model is asked for its manifest after `ask_after`, and tried with an image after `try_after`.

    It is ready while it has answered within `answers_for` and an inference has worked within `works_for`.
    """

    poll: float = 1.0
    retry: float = 0.2
    call: float = 2.0
    infer: float = 30.0
    ask_after: float = 4.0
    answers_for: float = 10.0
    try_after: float = 60.0
    works_for: float = 150.0


@dataclass(slots=True)
class ModelState:
    """What is known of one model.

    Attributes:
        card: the version that requests go to.
        confirmed: whether the server that answered the manifest is known to be alive.
        answered_at: when it last answered anything out of its session.
        worked_at: when an inference last worked.
        error: what is wrong now.
        versions: every version that the server knows, with its state; empty while the server cannot be asked.
        pinned: other versions that were asked for by number.
        refused: versions that did not answer, so that the log says it once.
        lock: held while the server is polled for it.
    """

    card: ModelCard | None = None
    confirmed: bool = False
    answered_at: float = float("-inf")
    worked_at: float = float("-inf")
    error: ServiceError | None = None
    versions: Mapping[int, str] = field(default_factory=dict)
    pinned: dict[int, ModelCard] = field(default_factory=dict)
    refused: set[int] = field(default_factory=set)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def trouble(self, now: float, timing: WatchTiming) -> str | None:
        """Return what is wrong, for people; None when the model answers, and an inference has worked not long ago."""
        if self.error is not None:
            return str(self.error)
        if now - self.answered_at > timing.answers_for:
            return "The model has not answered recently."
        return "No inference has worked recently." if now - self.worked_at > timing.works_for else None


AVAILABLE = "available"


class Watcher:
    """Polls the model servers and updates the models' states."""

    def __init__(  # noqa: PLR0913, collaborators
        self,
        servers: Replicas,
        models: Mapping[str, ModelState],
        *,
        label: str | None,
        timing: WatchTiming,
        metrics: Metrics,
        log: Logger,
        clock: Callable[[], float],
        accepted: Mapping[str, float],
    ) -> None:
        self._servers = servers
        self._acceptance = Acceptance(accepted, metrics, log)
        self._models = models
        self._label = label
        self._timing = timing
        self._metrics = metrics
        self._log = log
        self._clock = clock
        self._poll_now = asyncio.Event()

    async def run(self) -> None:
        """Keep everything up to date until cancelled."""
        try:
            while True:
                self._poll_now.clear()
                await asyncio.gather(*(self._refresh(name) for name in self._models))
                well = all(model.confirmed for model in self._models.values())
                try:
                    async with asyncio.timeout(self._timing.poll if well else self._timing.retry):
                        await self._poll_now.wait()
                    # A request failed: poll again after a short delay.
                    await asyncio.sleep(self._timing.retry)
                except TimeoutError:
                    pass
        finally:
            self._acceptance.close()

    async def poll(self, name: str) -> None:
        """Ask for the versions and use the first choice that answers. Hold the model's lock."""
        model = self._models[name]
        try:
            model.versions = await self._servers.versions(name, timeout=self._timing.call)
            self._acceptance.retain(name, model.versions.keys(), self._servers.identities())
            available = {number for number, state in model.versions.items() if state == AVAILABLE}
            if not available:
                raise ModelNotReady(f"No version of model {name!r} is ready.", retry_after=2)
            await self._settle(name, await self._choices(name, available))
        except ServiceError as error:
            self.lost(name, error)

    async def read(self, name: str, version: int, *, timeout: float | None = None) -> ModelCard:  # noqa: ASYNC109, gRPC's
        """Ask a version for its description, with the timeout of a call or another one.

        Raises:
            ServiceError: see `Replicas.manifest`.
        """
        manifest = await self._servers.manifest(name, version, timeout=timeout or self._timing.call)
        self._models[name].answered_at = self._clock()
        return self._acceptance.card(ModelCard(name, version, manifest))

    async def prove(self, card: ModelCard) -> None:
        """Return once a replica has shown by golden vectors that it may serve a version; see `Acceptance.prove`.

        Raises:
            ModelNotReady: the version deviates on every replica.
            ServiceError: see `client.py`.
        """
        await self._acceptance.prove(card, self._servers.living(), timeout=self._timing.infer)

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
            ServiceError: see `client.py` and `predict_encoding.py`.
        """
        fingerprint = card.manifest.fingerprint

        def allowed(replica: Replica) -> bool:
            return self._acceptance.passed(replica, card.name, card.version, fingerprint)

        if not any(map(allowed, self._servers.identities())):
            # All have started again since they were asked: the request waits for the check.
            try:
                async with asyncio.timeout(timeout):
                    await self.prove(card)
            except TimeoutError:
                raise DeadlineExceeded("The model server did not answer in the time allowed.") from None
        answer = await self._servers.predict(
            card.name,
            card.version,
            "serving_default",
            {IMAGES: pixels_tensor(images)},
            list(outputs),
            timeout=timeout,
            among=allowed,
        )
        found = vectors(answer, card, outputs, rows=len(images))
        model = self._models[card.name]
        model.worked_at = model.answered_at = self._clock()
        return found

    def lost(self, name: str, error: ServiceError) -> None:
        """Note that a call failed, and poll again soon."""
        model = self._models[name]
        if type(error) is not type(model.error):
            # At the start the gateway is often up before its model server: no reason for a warning.
            write = self._log.info if model.card is None else self._log.warning
            write("model_down", model=name, reason=str(error))
        model.error = error
        # A timeout or a full queue is no sign of a restart; any other error may be one.
        if not isinstance(error, DeadlineExceeded | Overloaded):
            model.confirmed = False
            model.pinned.clear()
        if isinstance(error, ModelServerDown):
            model.versions = {}
        self._poll_now.set()

    async def _refresh(self, name: str) -> None:
        model = self._models[name]
        async with model.lock:
            await self.poll(name)
        ready = model.trouble(self._clock(), self._timing) is None
        self._metrics.model_ready.labels(name).set(ready)

    async def _choices(self, name: str, available: Collection[int]) -> list[int]:
        """Return the versions in the order of preference: the newest first, or the labelled one.

        While the label is unknown, or differs between servers, the version in use is kept.
        """
        newest = sorted(available, reverse=True)
        if self._label is None:
            return newest
        labelled = await self._servers.labelled(name, self._label, timeout=self._timing.call)
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
                # A version that does not answer is skipped; the one in use stays in use while it is served.
                if version not in model.refused:
                    self._log.warning("model_version_refused", model=name, version=version, reason=str(error))
                    model.refused.add(version)
                if version == versions[-1]:
                    raise
            else:
                return

    async def _switch(self, name: str, version: int) -> None:
        """Read a version's manifest, try it, and send requests to it from then on."""
        try:
            card = await self.read(name, version)
            await self.prove(card)
            await self._probe(card)
        except ServiceError:
            raise
        except Exception as error:
            # An unforeseen fault of one version must not stop the polling of the others.
            if version not in self._models[name].refused:
                self._log.exception("model_version_broken", model=name, version=version)
            raise ModelServerFault("The version has an unforeseen fault; the log has its traceback.") from error
        model = self._models[name]
        if model.card != card:
            proved = card.manifest.golden is not None  # a manifest of version 1 proves nothing
            fingerprint = card.manifest.fingerprint
            self._log.info("model_version", model=name, version=version, fingerprint=fingerprint, proved=proved)
        elif model.error is not None:
            self._log.info("model_up", model=name, version=version)
        model.card, model.confirmed, model.error = card, True, None
        model.refused.discard(version)
        self._metrics.model_version.labels(name).set(version)

    async def _still_works(self, card: ModelCard) -> bool:
        """Check the golden vectors on replicas that are new, and an idle version; False when it is another model now.

        The manifest comes from the session that inferences run in, through the same queue and threads, and costs next
        to nothing. An image costs an inference, for which requests to other models wait: so that is rare.
        """
        model = self._models[card.name]
        try:
            await self.prove(card)
        except ModelNotReady:
            return False
        silent = self._clock() - model.answered_at > self._timing.ask_after
        # With the timeout of an inference, since it waits in the same queue.
        if silent and await self.read(card.name, card.version, timeout=self._timing.infer) != card:
            return False
        if self._clock() - model.worked_at > self._timing.try_after:
            await self._probe(card)
        return True

    async def _probe(self, card: ModelCard) -> None:
        """Run one black image through the default output: only an inference proves that inference works."""
        black = np.zeros((card.manifest.input.height, card.manifest.input.width, 3), np.uint8)
        await self.predict(card, [card.manifest.default_output], [black], timeout=self._timing.infer)
