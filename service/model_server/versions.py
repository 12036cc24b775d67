"""What is known of the versions behind one connection to a model server.

A version's identity is (start of the server, number, fingerprint). Another process may be at the other end of every new
connection, so this ends with the connection. A version is read and admitted once, before the first inference.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple, TypeVar

from microtome.errors import (
    DeadlineExceeded,
    ModelNotReady,
    ModelServerDown,
    ModelServerFault,
    Overloaded,
    ServiceError,
)
from microtome.fast_resizing import unavailable
from microtome.manifest import InputSpec, Manifest, ModelCard
from service.errors import restated
from service.model_server.client import ModelServerClient, Predict
from service.model_server.predict_encoding import blank, inputs_of, query_tensor, read_manifest, vectors

T = TypeVar("T")

AVAILABLE = "available"

IDENTIFY_SECONDS = 30.0
"""For reading a version's manifest and admitting it: both wait in the queue of inferences."""

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
    names = [card.manifest.default_output]
    inputs = inputs_of([blank(card.manifest)])
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
    """What one version is, known or being read."""

    __slots__ = ("card", "fingerprint", "reading")

    def __init__(self, reading: "asyncio.Task[ModelCard]") -> None:
        self.reading = reading
        self.fingerprint: str | None = None
        """As the manifest says; the card that was admitted may have another."""
        self.card: ModelCard | None = None
        """The version, once it has been admitted."""


def seen(task: "asyncio.Task[T]") -> None:
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


class Versions:
    """The versions behind one connection."""

    def __init__(self, client: ModelServerClient, target: str, start: int, admit: Admit) -> None:
        """Know nothing yet; see `Admit` for what these are."""
        self._client = client
        self._target = target
        self._start = start
        self._admit = admit
        self._identities: dict[tuple[str, int], _Identity] = {}
        self._refusals: dict[tuple[str, int], _Refusal] = {}

    def known(self, model: str, version: int) -> ModelCard | None:
        """Return a version, if it has been read and admitted."""
        identity = self._identities.get((model, version))
        return identity.card if identity else None

    def serves(self, card: ModelCard) -> bool:
        """Whether this version is known to be here."""
        known = self.known(card.name, card.version)
        return known is not None and same(known, card)

    def refusal(self, model: str, version: int | None = None) -> ModelNotReady | None:
        """Return why admission refuses a version, or any version of a model, here; None unless it does."""
        found = (its.error for key, its in self._refusals.items() if key[0] == model and version in {None, key[1]})
        return next(found, None)

    def refuses(self, card: ModelCard) -> bool:
        """Whether this version deviates here, which only another model or process changes."""
        refused = self._refusals.get((card.name, card.version))
        return refused is not None and refused.lasting

    def keep(self, model: str, states: Mapping[int, str]) -> None:
        """Forget the versions of a model that are not available any more."""
        for name, version in [*self._identities, *self._refusals]:
            if name == model and states.get(version) != AVAILABLE:
                self.forget(name, version)

    def forget(self, model: str, version: int) -> None:
        """Read a version again before the next inference."""
        self._refusals.pop((model, version), None)
        identity = self._identities.pop((model, version), None)
        if identity is not None and not identity.reading.done():
            identity.reading.cancel()

    def end(self) -> list["asyncio.Task[ModelCard]"]:
        """Cancel what is being read, and return it: the connection has ended."""
        readings = [identity.reading for identity in self._identities.values()]
        for reading in readings:
            reading.cancel()
        return readings

    async def card(self, model: str, version: int) -> ModelCard:
        """Return what a version is here: read and admitted once for each connection.

        Raises:
            ServiceError: it cannot be asked, is refused, or the server was replaced meanwhile.
        """
        identity = self._identities.get((model, version))
        if identity is None:
            identity = _Identity(asyncio.create_task(self._identify(model, version)))
            identity.reading.add_done_callback(seen)
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
            if lacking := isinstance(manifest.input, InputSpec) and unavailable(manifest.input):
                raise VersionRefused(f"Version {version} of model {model!r} is not served: {lacking}", lasting=True)  # noqa: TRY301, as admission's
            card = await self._admit(ModelCard(model, version, manifest), self._target, self._start, self._client)
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
        if mine is not None:
            mine.card = card
        return card

    async def manifest(self, model: str, version: int, *, timeout: float) -> Manifest:  # noqa: ASYNC109, gRPC's own deadline
        """Ask a version for its description.

        Raises:
            ServiceError: it cannot be asked; ModelServerFault if it has none, or one of another form.
        """
        answer = await self._client.predict(model, version, "manifest", {"query": query_tensor()}, [], timeout=timeout)
        return read_manifest(model, answer)

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
                self.forget(name, version)
        return answered
