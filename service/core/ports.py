"""What the core needs from outside. Every implementation of a port passes the port's suite in tests/contract."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from microtome.manifest import ModelCard
from service.core.timeouts import Deadline
from service.core.timings import Stages, unobserved

Pixels = NDArray[np.uint8]
"""uint8 [height, width, channels], C-contiguous: one image."""

Tokens = NDArray[np.int32]
"""int32 [length]: one text."""

Vectors = NDArray[np.float32]
"""float32 [N, D]."""


@dataclass(frozen=True, slots=True)
class Towers:
    """The versions that a request's images and texts go to; None where the model does not take them.

    Those of a family have the same space, so that their vectors can be compared.
    """

    image: ModelCard | None
    text: ModelCard | None

    @classmethod
    def alone(cls, card: ModelCard) -> Self:
        """Return those of a model by its own name, one of which is missing."""
        return cls(None, card) if card.manifest.tower == "text" else cls(card, None)

    def __post_init__(self) -> None:
        """Refuse what must never happen: vectors of two spaces would be compared."""
        if self.image and self.text and not self.image.manifest.space == self.text.manifest.space is not None:
            raise ValueError(f"Expected two towers of one space. Received: {self.image.name} and {self.text.name}.")

    def of(self, kind: Literal["Image", "Text"]) -> ModelCard:
        """Return the version for images or for texts; the only one where there is none, which refuses them."""
        found = (self.image or self.text) if kind == "Image" else (self.text or self.image)
        if found is None:
            raise ValueError("Expected at least one tower. Received: none.")
        return found

    @property
    def cards(self) -> list[ModelCard]:
        """Those that there are."""
        return [card for card in (self.image, self.text) if card is not None]


@dataclass(frozen=True, slots=True)
class Family:
    """An image tower and a text tower that requests name together.

    Attributes:
        towers: the pair in use; None before there was one.
        trouble: why it cannot compute vectors now, for people; None when it can.
    """

    towers: Towers | None
    trouble: str | None


class ModelServer(Protocol):
    """Turns a batch of pixels, or of token ids, into named vectors."""

    def card(self, model: str) -> ModelCard:
        """The version of a model that requests go to now; of a family the image tower's.

        Raises:
            UnknownModel: it is not among the models served here.
            ModelServerDown: the model server cannot be reached.
            ModelNotReady: no version is ready.
        """
        ...

    def towers(self, model: str) -> Towers:
        """Return the versions that a request's images and texts go to now, of a family or of a model.

        Raises:
            ServiceError: as `card` does; ModelNotReady for a family without two towers of one space.
        """
        ...

    def families(self) -> Mapping[str, Family]:
        """Return every family by name. A model has precedence over a family of its name."""
        ...

    async def card_of(self, model: str, version: int) -> ModelCard:
        """Return exactly this version of a model, whether or not it is the one in use.

        Raises:
            BadRequest: it is a family, whose towers have versions of their own.
            UnknownModel: it is not among the models served here.
            UnknownVersion: no such version can be asked now; the message lists those that can.
            ModelServerDown: the model server cannot be reached, and the version has never been seen.
        """
        ...

    def cards(self) -> Mapping[str, ModelCard | None]:
        """Return every model served here by name, with the version in use, if any has answered yet."""
        ...

    def readiness(self) -> Mapping[str, str | None]:
        """Return every model and family by name: None when it answers and inference works, else what is wrong."""
        ...

    def versions(self, model: str) -> Mapping[int, str]:
        """Return every version that the model server knows, with its state as TensorFlow Serving calls it.

        Requests can be sent to those that are `available`; empty while the model server cannot be asked.

        Raises:
            UnknownModel: it is not among the models served here.
        """
        ...

    def engines(self, card: ModelCard) -> Sequence[str]:
        """Return what computes a version on each model server that says so, and why; for people."""
        ...

    async def renewed(self, card: ModelCard, model: str = "") -> ModelCard:
        """Look now for the version that has replaced `card`, which the server no longer has.

        Args:
            card: of the model.
            model: the name that the request gave; of a family the image tower is returned, and the new pair used.

        Raises:
            ModelServerDown: the model server cannot be reached.
            ModelNotReady: no version is ready.
        """
        ...

    async def infer(
        self,
        card: ModelCard,
        outputs: Sequence[str],
        images: Sequence[Pixels | Tokens],
        stages: Stages = unobserved,
        deadline: Deadline | None = None,
    ) -> Mapping[str, Vectors]:
        """Run exactly the version of `card` and return the outputs asked for, each float32 [N, D], all finite.

        A text tower takes token ids in place of images.

        `stages` is told how long the images waited ("queue") and how long the inference took ("infer"). Nothing is sent
        after `deadline`, and no answer is awaited beyond it.

        Raises:
            ModelServerDown: the model server cannot be reached.
            ModelNotReady: this version is gone or not ready.
            Overloaded: the model server's queue is full.
            DeadlineExceeded: no answer in the time allowed.
            ModelServerFault: an answer that cannot be right.
        """
        ...


def only(models: ModelServer) -> str:
    """Return the only name that requests can give, a family's rather than its towers'; empty if there are several."""
    families = models.families()
    towers = {name for name, card in models.cards().items() if families and card and card.manifest.family in families}
    names = [name for name in models.cards() if name not in towers] + list(families)
    return names[0] if len(names) == 1 else ""


def available_versions(models: ModelServer, card: ModelCard) -> list[int]:
    """Return the numbers of all versions of a card's model that requests can name, from the lowest.

    While the model server cannot be asked only the one in use is known: its cached vectors are still answered.
    """
    known = models.versions(card.name)
    return sorted({card.version, *(number for number, state in known.items() if state == "available")})


class VectorCache(Protocol):
    """Keeps vectors by key. Values are immutable: an entry can be absent, never stale."""

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """The values in the order of the keys, None where there is none.

        Raises:
            CacheUnavailable: the cache could not be asked.
        """
        ...

    async def put_many(self, entries: Mapping[str, bytes]) -> None:
        """Store values; the cache may drop any of them at any time.

        Raises:
            CacheUnavailable: the cache could not be written.
        """
        ...

    async def close(self) -> None:
        """Free connections and memory."""
        ...


Peek = Callable[[Sequence[str]], list[bytes] | None]
"""Returns all values in the order of the keys if none of them must be waited for, else None."""


@runtime_checkable
class Peekable(Protocol):
    """A cache with an in-process tier."""

    def peek(self, keys: Sequence[str]) -> list[bytes] | None:
        """Return all values in the order of the keys if none of them must be waited for, else None."""
        ...


def peek_of(cache: VectorCache) -> Peek:
    """Return the cache's `peek`; for a cache without one, a function that always returns None."""
    return cache.peek if isinstance(cache, Peekable) else lambda _: None


@dataclass(frozen=True, slots=True)
class Acquired:
    """The outcome of acquiring leases; keys that are in neither are the caller's to compute.

    Attributes:
        found: vectors that are in the cache already, by key.
        elsewhere: keys that another gateway has leased.
    """

    found: Mapping[str, bytes] = field(default_factory=dict)
    elsewhere: frozenset[str] = frozenset()


class Leases(Protocol):
    """Leases on vectors that gateways compute. Must not raise, and must not wait for another gateway."""

    @property
    def seconds(self) -> float:
        """How long a lease lasts; a gateway that has waited so long for a vector computes it."""
        ...

    async def acquire(self, keys: Sequence[str]) -> Acquired:
        """Lease what is neither cached nor leased. The answer may hold other keys too.

        A lease ends when its vector is written, when it is released, or with its time.
        """
        ...

    def release(self, keys: Sequence[str]) -> None:
        """Let others compute these; keys that this gateway has not leased are ignored."""
        ...

    def outlived(self, keys: Sequence[str]) -> None:
        """Be told that leases of others did not end within their time: no gateway may wait for them again and again."""
        ...


class Observer(Protocol):
    """Counts what happens. Must not raise and must not block."""

    def stage(self, name: str, seconds: float) -> None:
        """A stage of a request (hash, cache, decode, queue, infer) took so long."""
        ...

    def images_arrived(self, images: int, size: int) -> None:
        """So many encoded images have arrived, of so many bytes in all."""
        ...

    def vectors_answered(self, model: str, sources: Sequence[str]) -> None:
        """A request was answered by vectors from these places: hit, miss or coalesced."""
        ...
