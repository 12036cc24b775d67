"""Watch the models: poll for versions, have a new one tried, and switch to it once every server serves it.

The wanted version is the newest, or the one that has the label. A version stays in use until another one has answered
on every healthy server that has the model, or for a while on some; meanwhile its requests go to the servers that serve
it. All versions that are known are read again at an interval, under traffic too: the same number may be another model.
The card stays while no server can be reached: cached vectors are keyed by fingerprint, and stay right.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from microtome.errors import (
    DeadlineExceeded,
    ModelNotReady,
    ModelServerDown,
    Overloaded,
    ServiceError,
)
from microtome.manifest import ModelCard
from service.core.ports import Pixels, Tokens, Vectors
from service.model_server.families import Families
from service.model_server.predict_encoding import blank, inputs_of, vectors
from service.model_server.replica import Replica
from service.model_server.replicas import Replicas
from service.model_server.versions import AVAILABLE, UnforeseenFault, same
from service.telemetry.logs import Logger
from service.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True)
class WatchTiming:
    """Seconds. Manifests are read again after `ask_after`; an idle model is tried with an image after `try_after`.

    A model is ready while it has answered within `answers_for` and an inference has worked within `works_for`. A new
    version that only some servers serve is used after `switch_after`.
    """

    poll: float = 1.0
    retry: float = 0.2
    call: float = 2.0
    infer: float = 30.0
    ask_after: float = 2.0
    answers_for: float = 10.0
    try_after: float = 60.0
    works_for: float = 150.0
    switch_after: float = 30.0


@dataclass(slots=True)
class ModelState:
    """What is known of one model.

    Attributes:
        card: the version that requests go to.
        answered_at: when it last answered anything out of its session.
        worked_at: when an inference last worked.
        asked_at: when the manifests were last read again.
        error: what is wrong now.
        versions: every version that the servers know, with its state; empty while none can be asked.
        pinned: other versions that were asked for by number.
        unlabelled_since: when the labelled version was first found not to be loaded, while no version is in use.
        waiting: since when some servers serve a version that is not used yet, by number and fingerprint.
        refused: versions that did not answer, so that the log says it once.
        renewing: looks for the successor of `card`, for all requests that met its end.
        lock: held while the servers are polled for it.
    """

    card: ModelCard | None = None
    answered_at: float = float("-inf")
    worked_at: float = float("-inf")
    asked_at: float = float("-inf")
    error: ServiceError | None = None
    versions: Mapping[int, str] = field(default_factory=dict)
    pinned: dict[int, ModelCard] = field(default_factory=dict)
    unlabelled_since: float | None = None
    waiting: dict[tuple[int, str], float] = field(default_factory=dict)
    refused: set[int] = field(default_factory=set)
    renewing: asyncio.Task[None] | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def trouble(self, now: float, timing: WatchTiming) -> str | None:
        """Return what is wrong, for people; None when the model answers, and an inference has worked not long ago."""
        if self.error is not None:
            return str(self.error)
        if now - self.answered_at > timing.answers_for:
            return "The model has not answered recently."
        return "No inference has worked recently." if now - self.worked_at > timing.works_for else None


class Watcher:
    """Polls the model servers and updates the models' states."""

    def __init__(  # noqa: PLR0913, collaborators
        self,
        servers: Replicas,
        models: Mapping[str, ModelState],
        families: Families,
        *,
        label: str | None,
        timing: WatchTiming,
        metrics: Metrics,
        log: Logger,
        clock: Callable[[], float],
    ) -> None:
        self._servers = servers
        self._models = models
        self._families = families
        self._label = label
        self._timing = timing
        self._metrics = metrics
        self._log = log
        self._clock = clock
        self._poll_now = asyncio.Event()

    async def run(self) -> None:
        """Keep everything up to date until cancelled."""
        while True:
            self._poll_now.clear()
            await asyncio.gather(*(self._refresh(name) for name in list(self._models)))
            await self._families.settle()
            well = all(model.error is None for model in self._models.values())
            try:
                async with asyncio.timeout(self._timing.poll if well else self._timing.retry):
                    await self._poll_now.wait()
                # A request failed: poll again after a short delay.
                await asyncio.sleep(self._timing.retry)
            except TimeoutError:
                pass

    async def poll(self, name: str) -> None:
        """Ask for the versions and use the first choice that answers. Hold the model's lock: it must not be dropped."""
        model = self._models[name]
        try:
            model.versions = await self._servers.versions(name, timeout=self._timing.call)
            available = {number for number, state in model.versions.items() if state == AVAILABLE}
            if not available:
                raise ModelNotReady(f"No version of model {name!r} is ready.", retry_after=2)
            await self._recheck(name)
            await self._settle(name, await self._choices(name, available))
        except ServiceError as error:
            self.lost(name, error)

    async def find(self, name: str, version: int) -> ModelCard:
        """Return a version that is asked for by number, as it is now.

        Raises:
            ServiceError: no server has it, or none answers.
        """
        found, refusal = await self._servers.cards(name, version, wait=self._timing.infer)
        if not found:
            raise refusal or ModelNotReady(f"No model server has version {version} of {name!r} ready.")
        if model := self._models.get(name):
            model.answered_at = self._clock()
        return found[0][0]

    async def predict(
        self,
        card: ModelCard,
        outputs: Sequence[str],
        images: Sequence[Pixels | Tokens],
        *,
        timeout: float,  # noqa: ASYNC109, handed on to gRPC
    ) -> Mapping[str, Vectors]:
        """Run a version on images, or on texts' ids, and note that it works.

        Raises:
            ServiceError: see `client.py` and `predict_encoding.py`.
        """
        answer = await self._servers.predict(card, inputs_of(images), list(outputs), timeout=timeout)
        found = vectors(answer, card, outputs, rows=len(images))
        if model := self._models.get(card.name):
            model.worked_at = model.answered_at = self._clock()
        return found

    def lost(self, name: str, error: ServiceError) -> None:
        """Note that a call failed, and poll again soon."""
        model = self._models.get(name)
        if model is None:
            return  # dropped meanwhile
        if type(error) is not type(model.error):
            # At the start the gateway is often up before its model server: no reason for a warning.
            write = self._log.info if model.card is None else self._log.warning
            write("model_down", model=name, reason=str(error))
        model.error = error
        if isinstance(error, ModelServerDown):
            model.versions = {}
        self._poll_now.set()

    def look(self) -> None:
        """Poll soon: a model is new."""
        self._poll_now.set()

    async def _refresh(self, name: str) -> None:
        model = self._models.get(name)
        if model is None:
            return  # dropped meanwhile
        async with model.lock:
            if self._models.get(name) is not model:
                return
            await self.poll(name)
            ready = model.trouble(self._clock(), self._timing) is None
            self._metrics.model_ready.labels(name).set(ready)
            self._metrics.golden_refusals.labels(name).set(self._servers.refusing(name))

    async def _choices(self, name: str, available: Collection[int]) -> list[int]:
        """Return the versions in the order of preference: the newest first, or the labelled one.

        While the label is unknown, or differs between servers, the version in use is kept. A gateway that has none yet
        takes what most servers say: one that starts knows its label only once that version is loaded.

        Raises:
            ModelNotReady: a gateway that starts must wait for the labelled version.
        """
        newest = sorted(available, reverse=True)
        if self._label is None:
            return newest
        says = await self._servers.labelled(name, self._label, timeout=self._timing.call)
        model = self._models[name]
        known = sorted(version for version in says if isinstance(version, int))
        if model.card is not None:
            known = known if len(set(says)) == 1 else []
            first = [*known[:1], model.card.version]
        else:
            first = [max(known, key=known.count)] if known else []
            if not known and any(says):
                self._wait_for_label(name)
        kept = [version for version in first if version in available]
        return list(dict.fromkeys(kept + newest))

    def _wait_for_label(self, name: str) -> None:
        """Go without a version while the one that has the label may still be loaded.

        Raises:
            ModelNotReady: it has not been waited for long enough.
        """
        model, now = self._models[name], self._clock()
        if model.unlabelled_since is None:
            model.unlabelled_since = now
        if now - model.unlabelled_since < self._timing.switch_after:
            raise ModelNotReady(f"The version of {name!r} with the label {self._label!r} is not loaded.", retry_after=2)

    async def _settle(self, name: str, versions: Sequence[int]) -> None:
        """Choose among the models that have these numbers, the first choice first."""
        model, now = self._models[name], self._clock()
        refusal: ServiceError | None = None
        partial: ModelCard | None = None
        seen: set[tuple[int, str]] = set()
        if model.card is not None and model.card.version not in versions[:1]:
            # Whether it is still served where a server has restarted; else it would look gone.
            await self._servers.cards(name, model.card.version, wait=self._timing.call)
        held = False
        # The first choice may take longer to check than others.
        patience = self._timing.infer if model.card is None else 0.0
        for version in versions:
            found, refused = await self._servers.cards(name, version, wait=self._timing.call, patience=patience)
            if refused is None:
                model.refused.discard(version)
            else:
                refusal = refused
                self._refused(name, version, refused)
                # After a new connection it is checked again, and may be late: no reason to leave it for an older one.
                late = not found and isinstance(refused, DeadlineExceeded | Overloaded)
                held |= late and model.card is not None and version == model.card.version
            for card, servers in found:
                key = (version, card.manifest.fingerprint)
                seen.add(key)
                current = model.card
                if current is not None and same(current, card):
                    await self._use(name, current)
                    model.waiting = {kept: since for kept, since in model.waiting.items() if kept in seen}
                    return
                since = model.waiting.setdefault(key, now)
                gone = current is not None and not self._servers.serving(current)
                everywhere = self._everywhere(card, servers) and not held
                # A label is a choice: what more servers serve is no better.
                chosen = current is None and self._label is not None
                if everywhere or gone or chosen or now - since >= self._timing.switch_after:
                    await self._use(name, card)
                    model.waiting.clear()
                    return
                partial = partial or card
        if model.card is None and partial is not None:
            await self._use(name, partial)
        elif refusal is not None and not held:
            raise refusal

    def _everywhere(self, card: ModelCard, servers: Collection[Replica]) -> bool:
        """Whether every healthy server of the model serves a version.

        One where it deviates is not waited for, while it is one of a few: its calls go to the others.
        """
        holders = self._servers.holders(card.name)
        able = {replica for replica in holders if not replica.versions.refuses(card)}
        return able <= set(servers) and 2 * len(able) >= len(holders)

    def _refused(self, name: str, version: int, error: ServiceError) -> None:
        """Log once that a version is not used; the one in use stays in use while it is served."""
        model = self._models[name]
        if version in model.refused or isinstance(error, ModelServerDown | DeadlineExceeded | Overloaded):
            return
        model.refused.add(version)
        if isinstance(error, UnforeseenFault):
            self._log.warning("model_version_broken", model=name, version=version, exc_info=error.__cause__)
        self._log.warning("model_version_refused", model=name, version=version, reason=str(error))

    async def _use(self, name: str, card: ModelCard) -> None:
        """Send requests to a version from now on."""
        model = self._models[name]
        if model.card is None or not same(model.card, card):
            proved = card.manifest.golden is not None  # a manifest of version 1 proves nothing
            fingerprint = card.manifest.fingerprint
            write = self._log.info if model.card is None or model.error is None else self._log.warning
            write("model_version", model=name, version=card.version, fingerprint=fingerprint, proved=proved)
            model.answered_at = model.worked_at = self._clock()
        elif model.error is not None:
            # As loud as what it takes back.
            self._log.warning("model_up", model=name, version=card.version)
            model.answered_at = self._clock()
        model.card, model.error = card, None
        self._metrics.model_version.labels(name).set(card.version)
        if self._clock() - model.worked_at > self._timing.try_after:
            await self._probe(card)

    async def _recheck(self, name: str) -> None:
        """Read all versions again that are known anywhere, those too that were asked for by number.

        A manifest comes from the session that inferences run in, through the same queue and threads, and costs next to
        nothing. An image costs an inference, for which requests to other models wait: so that is rare.
        """
        model = self._models[name]
        if self._clock() - model.asked_at > self._timing.ask_after:
            model.asked_at = self._clock()
            # With the timeout of an inference, since it waits in the same queue.
            if await self._servers.recheck(name, timeout=self._timing.infer, wait=self._timing.call):
                model.answered_at = self._clock()
        for version, card in list(model.pinned.items()):
            found, _ = await self._servers.cards(name, version, wait=self._timing.call)
            if found and not any(same(card, other) for other, _ in found):
                model.pinned[version] = found[0][0]
            elif not self._servers.serving(card):
                del model.pinned[version]

    async def _probe(self, card: ModelCard) -> None:
        """Run one black image through the default output: only an inference proves that inference works."""
        given = [blank(card.manifest)]
        await self.predict(card, [card.manifest.default_output], given, timeout=self._timing.infer)
