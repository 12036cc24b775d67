"""The model servers: one replica for each address, and the choice of one for each call.

A call goes to a replica that serves its version, to the one with the fewest calls. One that goes down, falls silent or
no longer has the version is replaced by another one: an inference changes nothing, so repeating it is safe. Names are
looked up every second; an address that has vanished gets no more calls, and is closed when those under way have ended.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from time import monotonic

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
from service.model_server.client import Outgoing, untraced
from service.model_server.names import Lookup, Name, Place, looked_up, understood
from service.model_server.predict_encoding import WireTensor
from service.model_server.replica import Replica
from service.model_server.versions import AVAILABLE, Admit, answers_an_image, same

_LOOKUP_SECONDS = 1.0
_ATTEMPTS = 4
"""Servers that one call is sent to at most."""
_REVIVAL_SECONDS = 1.0
"""For servers that have gone down under a call to answer a status, before the call fails."""
_UNREACHABLE = "The model server cannot be reached. Try again in a few seconds."


class Replicas:
    """All model servers as one."""

    def __init__(
        self,
        addresses: Sequence[str],
        outgoing: Outgoing = untraced,
        *,
        lookup: Lookup = looked_up,
        admit: Admit = answers_an_image,
    ) -> None:
        """Connect when first used. Needs a running event loop.

        Args:
            addresses: at least one, each `host:port`, `dns:///name:port` or `unix:/path`.
            outgoing: returns the metadata of a call's trace.
            lookup: finds the addresses of a name.
            admit: decides whether a version may be routed to on a server.
        """
        self._outgoing = outgoing
        self._lookup = lookup
        self._admit = admit
        known = [understood(address) for address in addresses]
        self._fixed = [place for place in known if isinstance(place, Place)]
        self._found: dict[Name, tuple[list[Place], list[Place]]] = {
            name: ([], []) for name in known if isinstance(name, Name)
        }
        self._trouble: dict[Name, str] = dict.fromkeys(self._found, "has not been looked up yet")
        self._replicas: dict[Place, Replica] = {}
        self._turn = 0
        self._keeping: asyncio.Task[None] | None = None
        self._looking_up: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[object]] = set()
        self._settle()

    def trouble(self) -> str | None:
        """Return, for people, what is wrong with names and servers; None when nothing is."""
        ill = sum(replica.health in {"down", "silent"} for replica in self._replicas.values())
        told = [f"{ill} of {len(self._replicas)} cannot be reached."] if ill else []
        told += [f"{name.host} {trouble}." for name, trouble in self._trouble.items()]
        return " ".join(told) or None

    async def versions(self, model: str, *, timeout: float) -> dict[int, str]:  # noqa: ASYNC109, gRPC's own deadline
        """Return the state of each version; available is what any reachable server has.

        Raises:
            ServiceError: no server answered, see `client.py`.
        """
        await self._begun()
        replicas = list(self._replicas.values())
        if not replicas:
            raise ModelServerDown(f"No model server is known: {self.trouble()}")
        looks = {replica: replica.look(model, timeout) for replica in replicas}
        # One that is down or silent is asked too, but not waited for while others are up.
        while waiting := [looks[one] for one in replicas if one.health in {"new", "up"} and not looks[one].done()]:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        answered = [look for look in looks.values() if look.done() and not look.cancelled() and not look.exception()]
        if not answered and not any(replica.health == "up" for replica in replicas):
            await asyncio.wait(looks.values())
            answered = [look for look in looks.values() if not look.cancelled() and not look.exception()]
        if not answered:
            errors = [look.exception() for look in looks.values() if look.done() and not look.cancelled()]
            raise restated(_worst(errors))
        return merged([look.result() for look in answered])

    def serving(self, card: ModelCard) -> int:
        """Return how many servers serve a version, or do as far as is known, and can be reached."""
        return sum(replica.reachable and replica.may_serve(card) for replica in self._replicas.values())

    def engines(self, card: ModelCard) -> list[str]:
        """Return what computes a version on the servers that say so, and why, each once."""
        return sorted({replica.engine(card) for replica in self._replicas.values()} - {""})

    def holders(self, model: str) -> set[Replica]:
        """Return the healthy servers that serve any version of a model."""
        return {
            replica
            for replica in self._replicas.values()
            if replica.health == "up" and AVAILABLE in replica.states.get(model, {}).values()
        }

    def refusing(self, model: str) -> int:
        """Return how many servers are refused a version of a model by admission."""
        return sum(replica.versions.refusal(model) is not None for replica in self._replicas.values())

    async def cards(
        self, model: str, version: int, *, wait: float, patience: float = 0.0
    ) -> tuple[list[tuple[ModelCard, set[Replica]]], ServiceError | None]:
        """Have a version read and admitted on each server that has it.

        Args:
            model: its name.
            version: its number.
            wait: seconds to wait for the servers; reading goes on afterwards.
            patience: seconds to wait for the first of them that admits it, if that is more.

        Returns:
            The models that have this number, the newest first, each with its servers; and an error of one that refused.
        """
        replicas = [one for one in self.holders(model) if one.states[model].get(version) == AVAILABLE]
        reading = {asyncio.create_task(replica.versions.card(model, version)): replica for replica in replicas}
        if not reading:
            return [], None
        end = monotonic() + patience
        done, late = await asyncio.wait(reading, timeout=wait)
        while late and all(task.cancelled() or task.exception() for task in done) and monotonic() < end:
            more, late = await asyncio.wait(late, timeout=end - monotonic(), return_when=asyncio.FIRST_COMPLETED)
            done |= more
        for task in late:
            task.cancel()
        found: list[tuple[ModelCard, set[Replica]]] = []
        refusal: ServiceError | None = None
        for task, replica in reading.items():
            try:
                card = task.result() if task.done() else None
            except ServiceError as error:
                refusal = error
                continue
            except asyncio.CancelledError:
                continue
            if card is None:
                refusal = refusal or DeadlineExceeded(f"Version {version} of {model!r} has not answered yet.")
                continue
            for known, its in found:
                if same(known, card):
                    its.add(replica)
                    break
            else:
                found.append((card, {replica}))
        found.sort(key=lambda pair: pair[0].manifest.created, reverse=True)
        return found, refusal

    async def recheck(self, model: str, *, timeout: float, wait: float) -> bool:  # noqa: ASYNC109, gRPC's own deadline
        """Read all versions that are known again on all servers; whether any of them has answered within `wait`."""
        tasks = [
            asyncio.create_task(replica.versions.recheck(model, timeout=timeout))
            for replica in self._replicas.values()
            if replica.health == "up"
        ]
        for task in tasks:
            self._keep_until_done(task)
        if not tasks:
            return False
        done, _ = await asyncio.wait(tasks, timeout=wait)
        return any(not task.cancelled() and task.exception() is None and task.result() for task in done)

    async def predict(
        self,
        card: ModelCard,
        inputs: Mapping[str, WireTensor],
        outputs: Sequence[str],
        *,
        timeout: float,  # noqa: ASYNC109, gRPC's own deadline, which the server is told
    ) -> PredictResponse:
        """Run exactly the version of `card` on one server, and on another if that one cannot.

        Raises:
            ServiceError: see `client.py`.
        """
        end = monotonic() + timeout
        tried: set[tuple[Replica, int]] = set()
        failure: ServiceError | None = None
        for _ in range(_ATTEMPTS):
            chosen = self._choose(card, tried)
            if chosen is None and isinstance(failure, ModelServerDown):
                await self._revive(card.name, end)
                chosen = self._choose(card, tried)
            if chosen is None:
                break
            attempt = (chosen, chosen.start)
            try:
                # The second one has what the first has left of the time.
                return await chosen.predict(card, inputs, outputs, end, self._elsewhere(card, tried, attempt))
            except (ModelServerDown, ModelNotReady, Overloaded) as error:
                failure = error
                tried.add(attempt)
        raise failure or self._nowhere(card)

    async def manifest(self, model: str, version: int, *, timeout: float) -> Manifest:  # noqa: ASYNC109, as above
        """Ask a version of a model for its own description, wherever it is served.

        Raises:
            ServiceError: as the model server reports it, see `to_service_error`.
            ModelServerFault: no manifest, or one of another form.
        """
        holders = [one for one in self.holders(model) if one.states[model].get(version) == AVAILABLE]
        if not holders:
            raise ModelNotReady(f"No model server has version {version} of {model!r} ready.")
        return await holders[0].versions.manifest(model, version, timeout=timeout)

    async def labelled(
        self,
        model: str,
        label: str,
        *,
        timeout: float,  # noqa: ASYNC109, as above
    ) -> list[int | ModelNotReady | None]:
        """Return what each server that answers says of a label.

        That is the version that has it, ModelNotReady while that version is not loaded, or None for an unknown label.
        They disagree while a rollout moves the label from server to server, and while one of them starts.
        """
        await self._begun()
        asks = [
            replica.labelled(model, label, timeout=timeout)
            for replica in self._replicas.values()
            if replica.health in {"new", "up"} and AVAILABLE in replica.states.get(model, {0: AVAILABLE}).values()
        ]
        found: list[int | ModelNotReady | None] = []
        for answer in await asyncio.gather(*asks, return_exceptions=True):
            if isinstance(answer, int | ModelNotReady):
                found.append(answer)
            elif isinstance(answer, ModelServerFault):
                found.append(None)
            elif not isinstance(answer, ServiceError):
                raise answer
        return found

    async def listed(self, *, timeout: float) -> set[str]:  # noqa: ASYNC109, as above
        """Return the models that any server lists.

        Raises:
            ServiceError: none does; ModelServerFault where one answers that it cannot.
        """
        await self._begun()
        asks = [replica.listed(timeout=timeout) for replica in self._replicas.values()]
        answers = await asyncio.gather(*asks, return_exceptions=True)
        found = [answer for answer in answers if isinstance(answer, set)]
        if not found:
            raise _worst([answer for answer in answers if isinstance(answer, BaseException)])
        return set().union(*found)

    def anywhere(self, model: str) -> bool:
        """Whether a server has a version of a model, as far as is known, or may have one again when it is back."""
        return any(
            replica.health == "new" or not set(replica.states.get(model, {}).values()) <= {"end"}
            for replica in self._replicas.values()
        )

    def drop(self, model: str) -> None:
        """Forget everything about a model that is served no more."""
        for replica in self._replicas.values():
            replica.drop(model)

    async def close(self) -> None:
        """Close all connections; calls under way are cancelled."""
        tasks = [*self._background, *(task for task in (self._keeping, self._looking_up) if task)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for replica in self._replicas.values():
            await replica.close()

    def _choose(self, card: ModelCard, tried: set[tuple[Replica, int]]) -> Replica | None:
        """Return the best server for a version: well, known to serve it, with the fewest calls."""
        self._turn += 1
        all_of_them = list(self._replicas.values())
        turn = self._turn % len(all_of_them) if all_of_them else 0
        usable = [
            one
            for one in all_of_them[turn:] + all_of_them[:turn]
            if one.reachable and (one, one.start) not in tried and one.may_serve(card)
        ]
        return min(usable, key=lambda one: (not one.well, not one.versions.serves(card), one.in_flight), default=None)

    def _elsewhere(
        self, card: ModelCard, tried: set[tuple[Replica, int]], now: tuple[Replica, int]
    ) -> Callable[[], bool]:
        def elsewhere() -> bool:
            return any(
                one is not now[0] and one.well and (one, one.start) not in tried and one.versions.serves(card)
                for one in self._replicas.values()
            )

        return elsewhere

    def _nowhere(self, card: ModelCard) -> ServiceError:
        if not any(replica.reachable for replica in self._replicas.values()):
            return ModelServerDown(_UNREACHABLE)
        for replica in self._replicas.values():
            if refusal := replica.versions.refusal(card.name, card.version):
                return restated(refusal)
        return ModelNotReady(f"No model server has version {card.version} of {card.name!r} ready.", retry_after=2)

    async def _revive(self, model: str, end: float) -> None:
        """Look names up and ask servers for their status, since a call has failed and none is left to try."""
        seconds = min(_REVIVAL_SECONDS, end - monotonic())
        if seconds > 0:
            looks = [replica.look(model, seconds) for replica in self._replicas.values()]
            await asyncio.wait([self._look_up(), *looks], timeout=seconds)

    async def _begun(self) -> None:
        """Have the names looked up from now on."""
        if self._found and self._keeping is None:
            self._keeping = asyncio.create_task(self._keep())
        if not self._replicas:
            await self._look_up()

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_LOOKUP_SECONDS)
            await self._look_up()

    def _look_up(self) -> "asyncio.Task[None]":
        """Look all names up, unless that is being done already."""
        if self._looking_up is None or self._looking_up.done():
            self._looking_up = asyncio.create_task(self._look_up_all())
        return self._looking_up

    async def _look_up_all(self) -> None:
        await asyncio.gather(*(self._look_up_one(name) for name in self._found))
        self._settle()

    async def _look_up_one(self, name: Name) -> None:
        try:
            self._found[name] = name.places(await self._lookup(name.host, name.port, name.dns_server))
            self._trouble.pop(name, None)
        except OSError as error:
            # The last known addresses stay: servers work without DNS.
            self._trouble[name] = f"cannot be looked up: {error}"

    def _settle(self) -> None:
        """Have one replica for each place."""
        wanted = dict.fromkeys(self._fixed)
        for four, six in self._found.values():
            # A server with both families is one server. IPv6 counts while no IPv4 address answers.
            healthy = any(place in self._replicas and self._replicas[place].health == "up" for place in four)
            wanted |= dict.fromkeys(four if healthy else [*four, *six])
        for place in wanted.keys() - self._replicas.keys():
            self._replicas[place] = Replica(place, self._outgoing, self._admit)
        for place in self._replicas.keys() - wanted.keys():
            self._keep_until_done(asyncio.create_task(self._replicas.pop(place).drained()))

    def _keep_until_done(self, task: "asyncio.Task[bool] | asyncio.Task[None]") -> None:
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def merged(states: Sequence[Mapping[int, str]]) -> dict[int, str]:
    """Return each version's state over all servers; one that any of them has available is."""
    found: dict[int, str] = {}
    for known in states:
        found |= {version: state for version, state in known.items() if found.get(version) != AVAILABLE}
    return found


def _worst(errors: Sequence[BaseException | None]) -> ServiceError:
    """Return the error to tell: of a server that answered before one that did not."""
    told = [error for error in errors if isinstance(error, ServiceError)]
    told.sort(key=lambda error: isinstance(error, ModelServerDown) + 2 * isinstance(error, DeadlineExceeded))
    return told[0] if told else ModelServerDown(_UNREACHABLE)
