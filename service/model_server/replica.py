"""One model server at one address: its connection, its health, and what is known of the versions that it serves.

A version's identity is (start of the server, number, fingerprint). Another process may be at the other end of every new
connection, so what is known of versions ends with the connection, and is read again before the next inference. An
answer counts if the version is still the same model after it.

A server is *down* when it cannot be reached, and *silent* when a status is not answered in time: then a new connection
is tried beside the silent one, and takes its place if it is answered. A frozen process answers neither.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from time import monotonic
from typing import Literal, NamedTuple, TypeVar

import numpy as np

from microtome.errors import (
    DeadlineExceeded,
    ModelNotReady,
    ModelServerDown,
    ModelServerFault,
    Overloaded,
    ServiceError,
)
from microtome.manifest import Manifest, ModelCard
from microtome.tfserving.v1.predict_pb2 import PredictResponse
from service.errors import restated
from service.model_server.client import ModelServerClient, Outgoing, Predict
from service.model_server.names import Place
from service.model_server.predict_encoding import (
    IMAGES,
    WireTensor,
    pixels_tensor,
    query_tensor,
    read_manifest,
    vectors,
)

T = TypeVar("T")

AVAILABLE = "available"

IDENTIFY_SECONDS = 30.0
"""For reading a version's manifest and admitting it: both wait in the queue of inferences."""

_LATE = 2
"""Consecutive inferences without an answer in time after which a server is spared for a while."""
_LATE_SECONDS = 1.0
"""Time that an inference must have had for being late to be held against the server."""
_SPARED_SECONDS = 10.0

_DRAINING_SECONDS = 2.0
"""Between two looks at a server that is being left."""

Admit = Callable[[ModelCard, str, int, ModelServerClient], Awaitable[ModelCard]]
"""Decides whether a version may be routed to on one server, by its target, start and client; before the first request.

Called once for each server, connection and version. Returns the card that its vectors belong to; raises VersionRefused
to refuse the version there, or a ServiceError when it cannot be asked.
"""


async def answers_an_image(card: ModelCard, _: str, __: int, client: Predict) -> ModelCard:
    """Admit a version when one black image has an answer: only an inference proves that inference works.

    Raises:
        ServiceError: the version does not answer, or its answer cannot be right.
    """
    black = np.zeros((card.manifest.input.height, card.manifest.input.width, 3), np.uint8)
    names = [card.manifest.default_output]
    inputs = {IMAGES: pixels_tensor([black])}
    answer = await client.predict(card.name, card.version, "serving_default", inputs, names, timeout=IDENTIFY_SECONDS)
    vectors(answer, card, names, rows=1)
    return card


class UnforeseenFault(ModelServerFault):
    """A version could not be read or admitted for a reason that nothing here expects; its cause says which."""


class VersionRefused(Exception):
    """Raised by admission: the version may not be routed to on this server. Callers get its text as ModelNotReady."""

    def __init__(self, reason: str, *, lasting: bool) -> None:
        """Keep the reason.

        Args:
            reason: for callers; what to do included.
            lasting: holds until the connection or the model is another one; otherwise the next poll asks again.
        """
        super().__init__(reason)
        self.lasting = lasting


class _Refusal(NamedTuple):
    fingerprint: str
    error: ModelNotReady
    lasting: bool


class _Identity:
    """What one version is on this server, known or being read."""

    __slots__ = ("fingerprint", "reading")

    def __init__(self, reading: "asyncio.Task[ModelCard]") -> None:
        self.reading = reading
        self.fingerprint: str | None = None
        """As the manifest says; the card that was admitted may have another."""

    @property
    def card(self) -> ModelCard | None:
        """The version, once it has been admitted."""
        done = self.reading.done() and not self.reading.cancelled() and self.reading.exception() is None
        return self.reading.result() if done else None


def _seen(task: "asyncio.Task[T]") -> None:
    """Mark a task's error as seen, since every caller may have left."""
    if not task.cancelled():
        task.exception()


def same(one: ModelCard, other: ModelCard) -> bool:
    """Whether two cards stand for the same model, with the same vectors."""
    return one is other or (
        one.version == other.version
        and one.manifest.fingerprint == other.manifest.fingerprint
        and one.name == other.name
    )


class Replica:
    """One model server.

    Attributes:
        health: `new` until a first status has been answered, refused or not.
        start: counts connections.
        states: of each version, by model, from the last status that was answered.
        in_flight: inferences.
    """

    def __init__(self, place: Place, outgoing: Outgoing, admit: Admit) -> None:
        """Connect when first used. Needs a running event loop."""
        self.place = place
        self.health: Literal["new", "up", "silent", "down"] = "new"
        self.start = 0
        self.states: dict[str, Mapping[int, str]] = {}
        self.in_flight = 0
        self._outgoing = outgoing
        self._admit = admit
        self._client = self._connected()
        self._identities: dict[tuple[str, int], _Identity] = {}
        self._refusals: dict[tuple[str, int], _Refusal] = {}
        self._looking: dict[str, asyncio.Task[Mapping[int, str]]] = {}
        self._renewing: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._late = 0
        self._spared_until = 0.0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def reachable(self) -> bool:
        """Whether calls can be tried."""
        return self.health != "down"

    @property
    def well(self) -> bool:
        """Whether nothing speaks against calls."""
        return self.health in {"new", "up"} and self._spared_until <= monotonic()

    def serves(self, card: ModelCard) -> bool:
        """Whether this version is known to be here."""
        identity = self._identities.get((card.name, card.version))
        known = identity.card if identity else None
        return known is not None and same(known, card)

    def may_serve(self, card: ModelCard) -> bool:
        """Whether this version is here as far as is known."""
        identity = self._identities.get((card.name, card.version))
        if identity is not None and identity.card is not None:
            return same(identity.card, card)
        if (card.name, card.version) in self._refusals:
            return False
        states = self.states.get(card.name)
        return states is None or states.get(card.version) == AVAILABLE

    def refusal(self, model: str, version: int | None = None) -> ModelNotReady | None:
        """Return why admission refuses a version, or any version of a model, here; None unless it does."""
        found = (its.error for key, its in self._refusals.items() if key[0] == model and version in {None, key[1]})
        return next(found, None)

    def refuses(self, card: ModelCard) -> bool:
        """Whether this version deviates here, which only another model or process changes."""
        refused = self._refusals.get((card.name, card.version))
        return refused is not None and refused.lasting

    def look(self, model: str, seconds: float) -> "asyncio.Task[Mapping[int, str]]":
        """Ask for a model's versions, unless that is being asked already."""
        if model not in self._looking:
            task = asyncio.create_task(self._look(model, seconds))
            task.add_done_callback(_seen)
            task.add_done_callback(lambda _: self._looking.pop(model))
            self._looking[model] = task
        return self._looking[model]

    async def _look(self, model: str, seconds: float) -> Mapping[int, str]:
        client = self._client
        try:
            states = await client.versions(model, timeout=seconds)
        except (ModelServerDown, DeadlineExceeded) as error:
            if client is not self._client:
                # Of a connection that has been replaced meanwhile: says nothing of the server.
                return await self._look(model, seconds)
            if isinstance(error, ModelServerDown):
                self._ill("down")
                raise
            self._ill("silent")
            if self._renewing is None or self._renewing.done():
                self._renewing = asyncio.create_task(self._renew(model, seconds))
            raise
        except ModelNotReady:
            # It answers, and does not know the model.
            self._answered(model, {})
            raise
        self._answered(model, states)
        return states

    def _answered(self, model: str, states: Mapping[int, str]) -> None:
        self.health = "up"
        self.states[model] = states
        for name, version in [*self._identities, *self._refusals]:
            if name == model and states.get(version) != AVAILABLE:
                self._forget(name, version)

    def _ill(self, health: Literal["silent", "down"]) -> None:
        self.health = health
        self._changed.set()
        self._changed = asyncio.Event()

    async def _renew(self, model: str, seconds: float) -> None:
        """Take a new connection if it is answered while the old one is silent."""
        fresh = self._connected()
        try:
            states = await fresh.versions(model, timeout=seconds)
        except ServiceError:
            await fresh.close()
            return
        except BaseException:
            await asyncio.shield(fresh.close())
            raise
        silent, self._client = self._client, fresh
        self._restarted(fresh)
        self._answered(model, states)
        await silent.close()

    def _connected(self) -> ModelServerClient:
        return ModelServerClient(self.place, self._outgoing, self._restarted)

    def _restarted(self, client: ModelServerClient) -> None:
        """Forget all versions: the server may be another one."""
        if client is not getattr(self, "_client", None):
            return
        self.start += 1
        for name, version in [*self._identities, *self._refusals]:
            self._forget(name, version)
        self._changed.set()
        self._changed = asyncio.Event()

    def _forget(self, model: str, version: int) -> None:
        self._refusals.pop((model, version), None)
        identity = self._identities.pop((model, version), None)
        if identity is not None and not identity.reading.done():
            identity.reading.cancel()

    async def card(self, model: str, version: int) -> ModelCard:
        """Return what a version is here: read and admitted once for each connection.

        Raises:
            ServiceError: it cannot be asked, is refused, or the server was replaced meanwhile.
        """
        identity = self._identities.get((model, version))
        if identity is None:
            identity = _Identity(asyncio.create_task(self._identify(model, version)))
            identity.reading.add_done_callback(_seen)
            self._identities[model, version] = identity
        try:
            return await asyncio.shield(identity.reading)
        except asyncio.CancelledError:
            if identity.reading.cancelled():
                raise ModelServerDown("The model server was replaced. Try again.") from None
            raise
        except ServiceError:
            if self._identities.get((model, version)) is identity:
                del self._identities[model, version]
            raise

    async def _identify(self, model: str, version: int) -> ModelCard:
        manifest = await self.manifest(model, version, timeout=IDENTIFY_SECONDS)
        mine = self._identities.get((model, version))
        if mine is not None:
            mine.fingerprint = manifest.fingerprint
        refused = self._refusals.get((model, version))
        if refused is not None and refused.lasting and refused.fingerprint == manifest.fingerprint:
            raise restated(refused.error)
        try:
            card = await self._admit(ModelCard(model, version, manifest), self.place.target, self.start, self._client)
        except VersionRefused as error:
            told = ModelNotReady(str(error), retry_after=5)
            self._refusals[model, version] = _Refusal(manifest.fingerprint, told, error.lasting)
            raise restated(told) from None
        except ServiceError:
            raise
        except Exception as error:
            # An unforeseen fault of one version must not stop what is done for the others.
            raise UnforeseenFault("The version has an unforeseen fault; the log has its traceback.") from error
        self._refusals.pop((model, version), None)
        return card

    async def manifest(self, model: str, version: int, *, timeout: float) -> Manifest:  # noqa: ASYNC109, gRPC's own deadline
        """Ask a version for its description.

        Raises:
            ServiceError: it cannot be asked; ModelServerFault if it has none, or one of another form.
        """
        answer = await self._client.predict(model, version, "manifest", {"query": query_tensor()}, [], timeout=timeout)
        return read_manifest(model, answer)

    async def labelled(self, model: str, label: str, *, timeout: float) -> int:  # noqa: ASYNC109, as above
        """Return the version of a label; see `ModelServerClient`."""
        return await self._client.labelled(model, label, timeout=timeout)

    async def listed(self, *, timeout: float) -> set[str]:  # noqa: ASYNC109, as above
        """Return the models that the server lists; see `ModelServerClient`. Its health, until a model is asked for."""
        try:
            found = await self._client.listed(timeout=timeout)
        except ModelServerFault:
            self._listed(up=True)
            raise
        except (ModelServerDown, DeadlineExceeded):
            self._listed(up=False)
            raise
        self._listed(up=True)
        return found

    def _listed(self, *, up: bool) -> None:
        if not self.states:
            self.health = "up" if up else "down"

    def drop(self, model: str) -> None:
        """Forget everything about a model that is served no more."""
        self.states.pop(model, None)
        for name, version in [*self._identities, *self._refusals]:
            if name == model:
                self._forget(name, version)

    async def recheck(self, model: str, *, timeout: float) -> bool:  # noqa: ASYNC109, as above
        """Read the manifests of all versions known here again; forget those that are other models now.

        Returns whether one of them has answered.
        """
        answered = False
        for (name, version), identity in list(self._identities.items()):
            if name != model or identity.card is None:
                continue
            try:
                manifest = await self.manifest(name, version, timeout=timeout)
            except (DeadlineExceeded, Overloaded, ModelServerDown):
                continue  # no sign of another model; what is down is noticed elsewhere
            except ServiceError:
                manifest = None
            answered = answered or manifest is not None
            known = self._identities.get((name, version)) is identity
            if known and (manifest is None or manifest.fingerprint != identity.fingerprint):
                self._forget(name, version)
        return answered

    async def predict(
        self,
        card: ModelCard,
        inputs: Mapping[str, WireTensor],
        outputs: Sequence[str],
        end: float,
        elsewhere: Callable[[], bool],
    ) -> PredictResponse:
        """Run exactly the version of `card`.

        Args:
            card: the version.
            inputs: of the signature `serving_default`.
            outputs: names.
            end: when to give up, by the monotonic clock.
            elsewhere: says whether another server could run it, should this one fall silent.

        Raises:
            ServiceError: see `client.py`; ModelNotReady if the number is another model here, ModelServerDown if the
                server fell silent or was replaced.
        """
        self.in_flight += 1
        self._idle.clear()
        try:
            await self._require(card, end)
            given = end - monotonic()
            try:
                answer = await self._while_well(card, inputs, outputs, end, elsewhere)
            except DeadlineExceeded:
                self._count_late(given)
                raise
            except ModelNotReady:
                self._forget(card.name, card.version)
                self.states[card.name] = {
                    number: state for number, state in self.states.get(card.name, {}).items() if number != card.version
                }
                raise
            self._late = 0
            # The connection was lost, or the version unloaded, under the call: whose answer is it?
            if not self.serves(card):
                await self._require(card, end)
            return answer
        finally:
            self.in_flight -= 1
            if not self.in_flight:
                self._idle.set()

    async def _require(self, card: ModelCard, end: float) -> None:
        """Make sure that a version is here.

        Raises:
            ModelNotReady: another model has its number now.
            ServiceError: it cannot be asked.
        """
        while not self.serves(card):
            try:
                async with asyncio.timeout(max(0.0, end - monotonic())):
                    found = await self.card(card.name, card.version)
            except TimeoutError:
                raise DeadlineExceeded("The model server did not answer in the time allowed.") from None
            if not same(found, card):
                raise ModelNotReady(f"Version {card.version} of {card.name!r} is another model now.")

    def _count_late(self, given: float) -> None:
        if given >= _LATE_SECONDS:
            self._late += 1
        if self._late >= _LATE:
            self._spared_until = monotonic() + _SPARED_SECONDS

    async def _while_well(
        self,
        card: ModelCard,
        inputs: Mapping[str, WireTensor],
        outputs: Sequence[str],
        end: float,
        elsewhere: Callable[[], bool],
    ) -> PredictResponse:
        client = self._client
        call = client.predict(
            card.name, card.version, "serving_default", inputs, outputs, timeout=max(0.0, end - monotonic())
        )
        calling = asyncio.ensure_future(call)
        try:
            while True:
                changing = asyncio.ensure_future(self._changed.wait())
                try:
                    await asyncio.wait((calling, changing), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    changing.cancel()
                if calling.done():
                    return calling.result()
                if client is not self._client or (self.health in {"silent", "down"} and elsewhere()):
                    raise ModelServerDown("The model server fell silent under the call.")  # noqa: TRY301, as the call's own
        except ModelServerDown:
            # Its connection, not the one that has taken its place: asked for its status, it may be up again at once.
            if calling.done() and client is self._client:
                self._ill("down")
            raise
        finally:
            if not calling.done():
                calling.cancel()
                with suppress(asyncio.CancelledError, ServiceError):
                    await calling

    async def drained(self) -> None:
        """Close once the calls under way have ended; those are repeated elsewhere when this server falls silent."""
        while self.in_flight:
            looks = [self.look(model, _DRAINING_SECONDS) for model in list(self.states)[:1]]
            await asyncio.wait([asyncio.ensure_future(self._idle.wait()), *looks], timeout=_DRAINING_SECONDS)
            if self.in_flight:
                await asyncio.sleep(_DRAINING_SECONDS / 4)
        await self.close()

    async def close(self) -> None:
        """Close the connection; calls under way are cancelled."""
        readings = [identity.reading for identity in self._identities.values()]
        looks = list(self._looking.values())
        renewals = [self._renewing] if self._renewing else []
        for task in (*readings, *looks, *renewals):
            task.cancel()
        await asyncio.gather(*readings, *looks, *renewals, return_exceptions=True)
        await self._client.close()
