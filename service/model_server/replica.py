"""One model server at one address: its connection, its health, and the calls to it.

A server is *down* when it cannot be reached, and *silent* when a status is not answered in time: then a new connection
is tried beside the silent one, and takes its place if it is answered. A frozen process answers neither. What is known
of its versions ends with the connection, see `versions.py`; an answer counts if the version is still the same model
after it.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Literal

from microtome.errors import DeadlineExceeded, ModelNotReady, ModelServerDown, ModelServerFault, ServiceError
from microtome.manifest import ModelCard
from microtome.tfserving.v1.predict_pb2 import PredictResponse
from service.model_server.client import ModelServerClient, Outgoing
from service.model_server.names import Place
from service.model_server.predict_encoding import WireTensor
from service.model_server.versions import AVAILABLE, Admit, Versions, same, seen

_LATE = 2
"""Consecutive inferences without an answer in time after which a server is spared for a while."""
_LATE_SECONDS = 1.0
"""Time that an inference must have had for being late to be held against the server."""
_SPARED_SECONDS = 10.0

_DRAINING_SECONDS = 2.0
"""Between two looks at a server that is being left."""


class Replica:
    """One model server.

    Attributes:
        health: `new` until a first status has been answered, refused or not.
        start: counts connections.
        versions: what is known of them on the present connection.
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
        self.versions = Versions(self._client, place.target, self.start, admit)
        self._looking: dict[str, asyncio.Task[Mapping[int, str]]] = {}
        self._renewing: asyncio.Task[None] | None = None
        self._calls: dict[asyncio.Task[object], tuple[ModelServerClient, Callable[[], bool]]] = {}
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

    def may_serve(self, card: ModelCard) -> bool:
        """Whether this version is here as far as is known."""
        known = self.versions.known(card.name, card.version)
        if known is not None:
            return same(known, card)
        if self.versions.refusal(card.name, card.version):
            return False
        states = self.states.get(card.name)
        return states is None or states.get(card.version) == AVAILABLE

    def engine(self, card: ModelCard) -> str:
        """Return what computes a version here, and why; empty where the server does not say."""
        return self._client.engines.get(card.name, {}).get(card.version, "")

    def look(self, model: str, seconds: float) -> "asyncio.Task[Mapping[int, str]]":
        """Ask for a model's versions, unless that is being asked already."""
        if model not in self._looking:
            task = asyncio.create_task(self._look(model, seconds))
            task.add_done_callback(seen)
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
        self.versions.keep(model, states)

    def _ill(self, health: Literal["silent", "down"]) -> None:
        self.health = health
        self._change()

    def _change(self) -> None:
        """End the calls under way that this server will not answer, where another one can."""
        for task, (client, elsewhere) in list(self._calls.items()):
            if client is not self._client or (self.health in {"silent", "down"} and elsewhere()):
                del self._calls[task]
                task.cancel()

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
        self.versions.end()
        self.versions = Versions(client, self.place.target, self.start, self._admit)
        self._change()

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
        self._client.engines.pop(model, None)
        self.versions.keep(model, {})

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
                self.versions.forget(card.name, card.version)
                self.states[card.name] = {
                    number: state for number, state in self.states.get(card.name, {}).items() if number != card.version
                }
                raise
            self._late = 0
            # The connection was lost, or the version unloaded, under the call: whose answer is it?
            if not self.versions.serves(card):
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
        while not self.versions.serves(card):
            try:
                async with asyncio.timeout(max(0.0, end - monotonic())):
                    found = await self.versions.card(card.name, card.version)
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
        client, task = self._client, asyncio.current_task()
        assert task is not None  # noqa: S101, for mypy: we are in a coroutine
        self._calls[task] = client, elsewhere
        try:
            return await client.predict(
                card.name, card.version, "serving_default", inputs, outputs, timeout=max(0.0, end - monotonic())
            )
        except asyncio.CancelledError:
            # Not by `_change`, or by its caller as well.
            if task in self._calls or task.uncancel():
                raise
            raise ModelServerDown("The model server fell silent under the call.") from None
        except ModelServerDown:
            # Its connection, not the one that has taken its place: asked for its status, it may be up again at once.
            if self._calls.pop(task, None) and client is self._client:
                self._ill("down")
            raise
        finally:
            self._calls.pop(task, None)

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
        readings = self.versions.end()
        looks = list(self._looking.values())
        renewals = [self._renewing] if self._renewing else []
        for task in (*looks, *renewals):
            task.cancel()
        await asyncio.gather(*readings, *looks, *renewals, return_exceptions=True)
        await self._client.close()
