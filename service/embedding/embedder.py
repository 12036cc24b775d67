"""From encoded images to vectors: hash, ask the cache, compute what is missing, and what nobody computes already.

The order is the design: nothing is decoded before the cache has been asked, and a request is answered by exactly one
version of one model. Nothing blocks the event loop: decoding runs in threads, everything else waits on sockets.
"""

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from service.embedding.backlog import Backlog
from service.embedding.budget import Budget
from service.embedding.computing import Computing
from service.embedding.flights import Flights
from service.embedding.journey import Journey, Pair
from service.embedding.keys import image_digest, vector_key
from service.embedding.manifest import ModelCard
from service.embedding.peeking import peek_of
from service.embedding.ports import Claims, ModelServer, Observer, VectorCache, Vectors
from service.embedding.request import ALL, Embedded, Embedding, EmbedRequest
from service.embedding.stopwatch import Stages, Timings, both, timed
from service.errors import BadRequest, ModelNotReady, TooManyImages, UnknownOutput, unknown

_HASH_OFF_LOOP_BYTES = 1 << 20
"""Hashing more than this (0.6 ms) is worth a thread switch; hashlib releases the interpreter."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may ask for, and how many seconds an image may be expected to wait for others."""

    max_images: int
    max_pixels: int
    longest_wait: float = 5.0


class Embedder:
    """Answers requests for embeddings over a model server and a cache."""

    def __init__(  # noqa: PLR0913, collaborators
        self,
        models: ModelServer,
        cache: VectorCache,
        *,
        limits: Limits,
        budget: Budget,
        decoders: ThreadPoolExecutor,
        observer: Observer,
        claims: Claims | None = None,
    ) -> None:
        self._models = models
        self._cache = cache
        self._peek = peek_of(cache)
        self._limits = limits
        self._budget = budget
        self._observer = observer
        self._computing = Computing(
            models, cache, decoders, Backlog(limits.longest_wait), max_pixels=limits.max_pixels, claims=claims
        )
        self._flights = Flights()

    def digests(self, images: Sequence[bytes], timings: Timings) -> list[str] | None:
        """Hash images here and now; None when one of them is so large that this is worth a thread."""
        if max(map(len, images)) > _HASH_OFF_LOOP_BYTES:
            return None
        with timed(both(self._observer.stage, timings.stage), "hash"):
            return [image_digest(image) for image in images]

    def require_room(self, images: int) -> None:
        """Refuse so many images now if `embed` would: in an overload refusing is most of the work.

        Raises:
            Overloaded: there is no room for them.
        """
        self._budget.require(images)

    def cached(self, request: EmbedRequest, digests: Sequence[str], timings: Timings) -> Embedded | None:
        """Answer from what the cache has within reach, without waiting; None when that is not everything.

        Raises:
            UnknownModel, UnknownOutput: as `embed` does.
            ModelServerDown, ModelNotReady: likewise.
        """
        if request.cache != "use" or request.version is not None or len(digests) > self._limits.max_images:
            return None
        start = perf_counter()
        card = self._models.card(request.model)
        names = _resolve(request.outputs, card)
        keys = _keys(card, digests, names)
        values = self._peek(list(keys.values()))
        if values is None:
            return None
        found = _vectors(card, keys, values)
        if len(found) < len(keys):
            return None
        both(self._observer.stage, timings.stage)("cache", perf_counter() - start)
        embeddings = [
            Embedding(index, name, found[digest, name], "hit") for index, digest in enumerate(digests) for name in names
        ]
        self._observer.vectors_answered(card.name, ["hit"] * len(embeddings))
        return Embedded(card, embeddings)

    async def embed(
        self,
        request: EmbedRequest,
        images: Sequence[bytes],
        timings: Timings | None = None,
        digests: Sequence[str] | None = None,
    ) -> Embedded:
        """Embed images with one version of one model.

        Args:
            request: which model, outputs and options.
            images: encoded, at least one.
            timings: is told how long the stages of this request took.
            digests: of the images, when they are known already.

        Raises:
            ServiceError: any leaf of the tree. What is wrong with one image begins with "Image 3: "; it is raised
                unless bad images are skipped. What is wrong with the model server is always raised.
        """
        if not images:
            raise BadRequest("Expected at least one image, received none.")
        if len(images) > self._limits.max_images:
            raise TooManyImages(f"Expected at most {self._limits.max_images} images a request, received {len(images)}.")
        own = timings or Timings()
        with self._budget.hold(len(images)):
            digests = digests or await self._digests(images, both(self._observer.stage, own.stage))
            card = await self._card(request)
            try:
                return await self._answer(card, request, digests, images, own)
            except ModelNotReady:
                # Unloaded between two looks at the server. Its successor answers the whole request, so that no answer
                # mixes two versions; who wants this version and no other is told what there is.
                successor = await self._models.renewed(card) if request.version is None else await self._card(request)
                if successor == card:
                    raise
                return await self._answer(successor, request, digests, images, own)

    async def _card(self, request: EmbedRequest) -> ModelCard:
        if request.version is None:
            return self._models.card(request.model)
        return await self._models.card_of(request.model, request.version)

    async def _answer(
        self,
        card: ModelCard,
        request: EmbedRequest,
        digests: Sequence[str],
        images: Sequence[bytes],
        timings: Timings,
    ) -> Embedded:
        names = _resolve(request.outputs, card)
        keys = _keys(card, digests, names)
        found: dict[Pair, Vectors] = {}
        if request.cache == "use":
            with timed(both(self._observer.stage, timings.stage), "cache"):
                found = await self._cached(card, keys)
        journey = Journey(card, request, found, self._observer, timings)
        if len(found) < len(keys):
            missing = {pair: key for pair, key in keys.items() if pair not in found}
            # The first of equal images stands for all of them.
            first = dict(zip(reversed(digests), reversed(images), strict=True))
            await journey.fly(self._computing, self._flights, missing, first, digests)
        embeddings = [
            Embedding(index, name, journey.vectors[digest, name], journey.source((digest, name)))
            for index, digest in enumerate(digests)
            if digest not in journey.failed
            for name in names
        ]
        self._observer.vectors_answered(card.name, [embedding.cache for embedding in embeddings])
        return Embedded(card, embeddings, journey.errors(digests))

    async def _digests(self, images: Sequence[bytes], stages: Stages) -> list[str]:
        with timed(stages, "hash"):
            return [
                await asyncio.to_thread(image_digest, image)
                if len(image) > _HASH_OFF_LOOP_BYTES
                else image_digest(image)
                for image in images
            ]

    async def _cached(self, card: ModelCard, keys: Mapping[Pair, str]) -> dict[Pair, Vectors]:
        return _vectors(card, keys, await self._cache.get_many(list(keys.values())))


def _keys(card: ModelCard, digests: Sequence[str], names: Sequence[str]) -> dict[Pair, str]:
    fingerprint = card.manifest.fingerprint
    return {(digest, name): vector_key(fingerprint, name, digest) for digest in digests for name in names}


def _vectors(card: ModelCard, keys: Mapping[Pair, str], values: Sequence[bytes | None]) -> dict[Pair, Vectors]:
    outputs = card.outputs
    # A value of the wrong length is no answer, whoever wrote it.
    return {
        pair: np.frombuffer(value, "<f4")
        for pair, value in zip(keys, values, strict=True)
        if value is not None and len(value) == 4 * outputs[pair[1]].dim
    }


def _resolve(outputs: Sequence[str], card: ModelCard) -> list[str]:
    if not outputs:
        return [card.manifest.default_output]
    known = card.outputs
    if tuple(outputs) == (ALL,) and ALL not in known:
        return list(known)
    for name in outputs:
        if name not in known:
            raise UnknownOutput(unknown(f"output of model {card.name!r}", name, known))
    return list(dict.fromkeys(outputs))
