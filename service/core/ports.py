"""What the core needs from outside. Every implementation of a port passes the port's suite in tests/contract."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from microtome.manifest import ModelCard
from service.core.deadline import Deadline
from service.core.timings import Stages, nobody

Pixels = NDArray[np.uint8]
"""uint8 [height, width, 3], RGB, C-contiguous: one image."""

Vectors = NDArray[np.float32]
"""float32 [N, D]."""


class ModelServer(Protocol):
    """Turns a batch of pixels into named vectors."""

    def card(self, model: str) -> ModelCard:
        """The version of a model that requests go to now.

        Raises:
            UnknownModel: it is not among the models served here.
            ModelServerDown: the model server cannot be reached.
            ModelNotReady: no version is ready.
        """
        ...

    async def card_of(self, model: str, version: int) -> ModelCard:
        """Float64Reference this version of a model, whether or not it is the one in use.

        Raises:
            UnknownModel: it is not among the models served here.
            UnknownVersion: no such version can be asked now; the message lists those that can.
            ModelServerDown: the model server cannot be reached, and the version has never been seen.
        """
        ...

    def cards(self) -> Mapping[str, ModelCard | None]:
        """Return every model served here by name, with the version in use, if any has answered yet."""
        ...

    def readiness(self) -> Mapping[str, str | None]:
        """Return every model by name: None when it answers and inference works, else what is wrong, for people."""
        ...

    def versions(self, model: str) -> Mapping[int, str]:
        """Return every version that the model server knows, with its state as TensorFlow Serving calls it.

        Requests can be sent to those that are `available`; empty while the model server cannot be asked.

        Raises:
            UnknownModel: it is not among the models served here.
        """
        ...

    async def renewed(self, card: ModelCard) -> ModelCard:
        """Look at once for the version that has taken the place of `card`, which the server no longer has.

        Raises:
            ModelServerDown: the model server cannot be reached.
            ModelNotReady: no version is ready.
        """
        ...

    async def infer(
        self,
        card: ModelCard,
        outputs: Sequence[str],
        images: Sequence[Pixels],
        stages: Stages = nobody,
        deadline: Deadline | None = None,
    ) -> Mapping[str, Vectors]:
        """Run exactly the version of `card` and return the outputs asked for, each float32 [N, D], all finite.

        `stages` is told how long the images waited ("queue") and how long the inference took ("infer"). Nothing is sent
        after `deadline`, and no answer is waited for beyond it.

        Raises:
            ModelServerDown: the model server cannot be reached.
            ModelNotReady: this version is gone or not ready.
            Overloaded: the model server's queue is full.
            DeadlineExceeded: no answer in the time allowed.
            ModelServerFault: an answer that cannot be right.
        """
        ...


class VectorCache(Protocol):
    """Keeps vectors by key. Values are immutable: an entry can be absent, never stale."""

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """The values in the order of the keys, None where there is none.

        Raises:
            CacheUnavailable: the cache could not be asked.
        """
        ...

    async def put_many(self, entries: Mapping[str, bytes]) -> None:
        """Store values; which of them stay is the cache's affair.

        Raises:
            CacheUnavailable: the cache could not be told.
        """
        ...

    async def close(self) -> None:
        """Give connections and memory back."""
        ...


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of keys that somebody wanted to claim; those in neither are the caller's to compute.

    Attributes:
        found: vectors that are there already, by key.
        elsewhere: keys that another gateway has claimed.
    """

    found: Mapping[str, bytes] = field(default_factory=dict)
    elsewhere: frozenset[str] = frozenset()


class Claims(Protocol):
    """Says which vectors another gateway is computing already. Must not raise, and must not wait for that gateway."""

    @property
    def lease(self) -> float:
        """Seconds that a claim lasts; whoever has waited so long computes what it waits for."""
        ...

    async def take(self, keys: Sequence[str]) -> Taken:
        """Claim what is neither there nor claimed. The answer may tell of other keys too.

        A claim ends when its vector is written, when it is given back, or with its lease.
        """
        ...

    def give_back(self, keys: Sequence[str]) -> None:
        """Let others compute these, since here nobody does; keys that are not claimed here are left alone."""
        ...


class Observer(Protocol):
    """Is told what happens, to count it. Must not raise and must not block."""

    def stage(self, name: str, seconds: float) -> None:
        """A stage of a request (hash, cache, decode, queue, infer) took so long."""
        ...

    def images_arrived(self, images: int, size: int) -> None:
        """So many encoded images have come whole, of so many bytes in all."""
        ...

    def vectors_answered(self, model: str, sources: Sequence[str]) -> None:
        """A request was answered by vectors from these places: hit, miss or coalesced."""
        ...
