"""Several model servers that serve the same models, as one: round robin over those that are up.

A replica is down from a failed call, or a status that timed out, until it answers a status again. A call to a replica
that goes down, frozen ones included, is repeated at another one once: an inference changes nothing, so that is safe.
While all are down each is still tried.

Servers behind one address are found by DNS alone: gRPC goes round the addresses of `dns:///name:port`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import TypeVar

from microtome.errors import DeadlineExceeded, ModelNotReady, ModelServerDown, ModelServerFault, ServiceError
from microtome.manifest import Manifest
from microtome.tfserving.v1.predict_pb2 import PredictResponse
from service.model_server.acceptance import Replica
from service.model_server.client import ModelServerClient, Outgoing, untraced
from service.model_server.predict_encoding import WireTensor, query_tensor, read_manifest

T = TypeVar("T")

_ASKS = 3
"""How often each address is asked for a label's version: gRPC goes round up to three servers behind it."""


@dataclass(slots=True, eq=False)
class _Replica:
    address: str
    client: ModelServerClient
    went_down: asyncio.Event = field(default_factory=asyncio.Event)
    starts: int = 0
    """Times that its connection was lost or not made: what answers afterwards may be another process."""
    watch: asyncio.Task[None] | None = None

    @property
    def identity(self) -> Replica:
        """This start of the server; see `acceptance.py`."""
        return Replica(self.address, self.starts)

    async def count_connections(self) -> None:
        """Note each connection that is lost, also between two calls."""
        while True:
            await self.client.disconnected()
            self.starts += 1

    def unreachable(self) -> None:
        """Note that a call did not reach it."""
        self.starts += 1
        self.went_down.set()


class Replicas:
    """Calls a replica that is up; with one address always that one."""

    def __init__(self, addresses: Sequence[str], outgoing: Outgoing = untraced) -> None:
        """Connect when first used. Needs a running event loop.

        Args:
            addresses: at least one, each `host:port`, `dns:///…` or `unix:/path`.
            outgoing: returns the metadata of a call's trace.
        """
        self._replicas = [_Replica(address, ModelServerClient(address, outgoing)) for address in addresses]
        self._next = 0
        self._looking: dict[tuple[int, str], asyncio.Task[dict[int, str]]] = {}

    def trouble(self) -> str | None:
        """Return, for people, how many of them are down; None when none is."""
        down = sum(replica.went_down.is_set() for replica in self._replicas)
        return f"{down} of {len(self._replicas)} cannot be reached." if down else None

    def identities(self) -> list[Replica]:
        """Return the present start of every server."""
        return [replica.identity for replica in self._replicas]

    def living(self) -> dict[Replica, ModelServerClient]:
        """Return the servers that are up; all of them while none is."""
        up = [replica for replica in self._replicas if not replica.went_down.is_set()]
        return {replica.identity: replica.client for replica in up or self._replicas}

    async def versions(self, model: str, *, timeout: float) -> dict[int, str]:  # noqa: ASYNC109, gRPC's own deadline
        """Return the state of each version; available is what every living replica has, or, if there is none, any.

        Raises:
            ServiceError: no replica answered, see `client.py`.
        """
        looks = [self._look(number, model, timeout) for number in range(len(self._replicas))]
        living = [look for look, replica in zip(looks, self._replicas, strict=True) if not replica.went_down.is_set()]
        # One that is down is asked too, but not waited for while others are up.
        await asyncio.wait(living or looks)
        answers = [look for look in looks if look.done() and not look.cancelled()]
        states = [look.result() for look in answers if look.exception() is None]
        if not states:
            return await answers[0] if answers else {}
        return merged(states)

    async def predict(  # noqa: PLR0913, the parts of one request
        self,
        model: str,
        version: int,
        signature: str,
        inputs: Mapping[str, WireTensor],
        outputs: Sequence[str],
        *,
        timeout: float,  # noqa: ASYNC109, gRPC's own deadline, which the server is told
        among: Callable[[Replica], bool] = lambda _: True,
    ) -> PredictResponse:
        """Run a signature of exactly this version on one replica of those that `among` allows, or on a second one.

        Raises:
            ServiceError: see `client.py`; ModelServerDown also while none is allowed.
        """
        end = monotonic() + timeout
        allowed = [replica for replica in self._in_turn() if among(replica.identity)]
        if not allowed:
            raise ModelServerDown("The model server is being checked by its golden vectors. Try again in a second.")

        async def call(replica: _Replica) -> PredictResponse:
            # The second one has what the first has left of the time.
            left, asked = max(0.0, end - monotonic()), replica.identity
            answer = await replica.client.predict(model, version, signature, inputs, outputs, timeout=left)
            if replica.watch is not None and replica.identity != asked:
                raise ModelServerDown("The model server was replaced under the call. Try again in a second.")
            return answer

        replica, *others = allowed
        if others:
            try:
                return await _while_up(replica, call)
            except (ModelServerDown, ModelNotReady):
                # Down, or behind the others with a new version.
                replica = others[0]
        try:
            return await call(replica)
        except ModelServerDown:
            replica.unreachable()
            raise

    async def manifest(self, model: str, version: int, *, timeout: float) -> Manifest:  # noqa: ASYNC109, as above
        """Ask a version of a model for its own description.

        Raises:
            ServiceError: as the model server reports it, see `to_service_error`.
            ModelServerFault: no manifest, or one of another form.
        """
        answer = await self.predict(model, version, "manifest", {"query": query_tensor()}, [], timeout=timeout)
        return read_manifest(model, answer)

    async def labelled(self, model: str, label: str, *, timeout: float) -> int | None:  # noqa: ASYNC109, as above
        """Return the version of a label; None unless all replicas that answer agree on one.

        They disagree for the seconds in which a rollout moves the label from server to server.
        """
        living = [replica for replica in self._replicas if not replica.went_down.is_set()]
        asks = (replica.client.labelled(model, label, timeout=timeout) for replica in living for _ in range(_ASKS))
        answers = await asyncio.gather(*asks, return_exceptions=True)
        found: set[int | None] = set()
        for answer in answers:
            if isinstance(answer, int):
                found.add(answer)
            elif isinstance(answer, ModelServerFault | ModelNotReady):
                found.add(None)
            elif not isinstance(answer, ServiceError):
                raise answer
        return found.pop() if len(found) == 1 else None

    async def close(self) -> None:
        """Close the channels; calls under way are cancelled."""
        for look in self._looking.values():
            look.cancel()
        for replica in self._replicas:
            if replica.watch is not None:
                replica.watch.cancel()
                with suppress(asyncio.CancelledError):
                    await replica.watch
            await replica.client.close()

    def _in_turn(self) -> list[_Replica]:
        """Return the next replica and those after it: those that are up first."""
        self._next = (self._next + 1) % len(self._replicas)
        turn = self._replicas[self._next :] + self._replicas[: self._next]
        return sorted(turn, key=lambda replica: replica.went_down.is_set())

    def _look(self, number: int, model: str, timeout: float) -> "asyncio.Task[dict[int, str]]":
        """Ask one replica for its versions, unless it is being asked already."""
        key = (number, model)
        replica = self._replicas[number]
        # Behind a name several servers answer, and connections are renewed on purpose.
        if replica.watch is None and not replica.address.startswith("dns:"):
            replica.watch = asyncio.create_task(replica.count_connections())
        if key not in self._looking:
            task = asyncio.create_task(_status(self._replicas[number], model, timeout))
            task.add_done_callback(lambda done: self._looked(key, done))
            self._looking[key] = task
        return self._looking[key]

    def _looked(self, key: tuple[int, str], task: "asyncio.Task[dict[int, str]]") -> None:
        del self._looking[key]
        if not task.cancelled():
            task.exception()  # marked as seen: every caller may have left


def merged(states: Sequence[Mapping[int, str]]) -> dict[int, str]:
    """Return each version's state over all replicas."""
    available = [{version for version, state in known.items() if state == "available"} for known in states]
    usable = set.intersection(*available) or set.union(*available)
    # A version that only some replicas have ready has the others' state; one that some lack is loading.
    states_by_version = dict.fromkeys(set().union(*states), "loading")
    for known in states:
        states_by_version |= {version: state for version, state in known.items() if state != "available"}
    return states_by_version | dict.fromkeys(usable, "available")


async def _status(replica: _Replica, model: str, timeout: float) -> dict[int, str]:  # noqa: ASYNC109, gRPC's own deadline
    try:
        versions = await replica.client.versions(model, timeout=timeout)
    except ModelServerDown:
        replica.unreachable()
        raise
    except DeadlineExceeded:
        # Frozen, which is no new start.
        replica.went_down.set()
        raise
    except ServiceError:
        replica.went_down.clear()
        raise
    replica.went_down.clear()
    return versions


async def _while_up(replica: _Replica, call: Callable[[_Replica], Awaitable[T]]) -> T:
    """Call, and give up when the replica is found to be down meanwhile.

    Raises:
        ServiceError: of the call; ModelServerDown when the replica went down under it.
    """
    if replica.went_down.is_set():
        return await call(replica)
    calling = asyncio.ensure_future(call(replica))
    watching = asyncio.create_task(replica.went_down.wait())
    try:
        await asyncio.wait((calling, watching), return_when=asyncio.FIRST_COMPLETED)
        if not calling.done():
            raise ModelServerDown("The model server went down under the call.")  # noqa: TRY301, handled like the call's own
        return await calling
    except ModelServerDown:
        if calling.done():  # else it is frozen, which is no new start
            replica.unreachable()
        raise
    finally:
        watching.cancel()
        if not calling.done():
            calling.cancel()
            with suppress(asyncio.CancelledError, ServiceError):
                await calling
