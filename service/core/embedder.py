"""From encoded images to vectors: hash, ask the cache, compute what is missing, and what nobody computes already.

The order is the design: nothing is decoded before the cache has been asked, and a request is answered by exactly one
version of one model. Nothing blocks the event loop: decoding runs in threads, everything else waits on sockets.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter

from microtome.manifest import ModelCard
from service.core.admission import Backlog
from service.core.budget import Budget
from service.core.cache_keys import image_digest
from service.core.compute import Computing
from service.core.journey import Journey
from service.core.lookup import Lookup
from service.core.peeking import peek_of
from service.core.ports import Claims, ModelServer, Observer, VectorCache
from service.core.requests import Embedded, Embedding, EmbedRequest
from service.core.single_flight import Flights
from service.core.timings import Stages, Timings, timed
from service.errors import BadRequest, ModelNotReady, TooManyImages

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
        self._backlog = Backlog(limits.longest_wait)
        self._computing = Computing(models, cache, decoders, self._backlog, max_pixels=limits.max_pixels, claims=claims)
        self._flights = Flights()

    def digests(self, images: Sequence[bytes], timings: Timings) -> list[str] | None:
        """Hash images here and now; None when one of them is so large that this is worth a thread."""
        if max(map(len, images)) > _HASH_OFF_LOOP_BYTES:
            return None
        self._observer.images_arrived(len(images), sum(map(len, images)))
        with timed(timings.stage, "hash"):
            return [image_digest(image) for image in images]

    def require_room(self, images: int, lookup: Lookup | None = None) -> None:
        """Refuse so many images now if `embed` would: in an overload refusing is most of the work.

        Args:
            images: how many there are.
            lookup: what the whole cache had of them, which is not everything, if it has been asked.

        Raises:
            Overloaded: there is no room for them, or they would wait too long.
        """
        self._budget.require(images)
        if lookup is not None and not self.joins(lookup):
            self._backlog.require()

    def require_turn(self, before: int) -> None:
        """Refuse one image, for which nobody has looked, if it would be refused were it nowhere to be found.

        Args:
            before: images that are being looked for, each of which takes a place first if it is not found either.

        Raises:
            Overloaded: as `require_room` does.
        """
        self._budget.require(1, before)
        self._backlog.require()

    def joins(self, lookup: Lookup) -> bool:
        """Whether any of what is missing is being computed here, so that it need not wait for a turn."""
        version = lookup.card.version
        return any(
            self._flights.find(f"{version}:{key}") for pair, key in lookup.keys.items() if pair not in lookup.found
        )

    def looked(self, request: EmbedRequest, digests: Sequence[str]) -> Lookup | None:
        """Look for a request's vectors within reach, without waiting; None when it does not want the cache's.

        Raises:
            UnknownModel, UnknownOutput: as `embed` does.
            ModelServerDown, ModelNotReady: likewise.
        """
        if request.cache != "use" or request.version is not None or len(digests) > self._limits.max_images:
            return None
        lookup = Lookup(self._models.card(request.model), request.outputs, digests)
        values = self._peek(list(lookup.keys.values()))
        if values is not None:
            lookup.fill(values)
        return lookup

    async def look_further(self, lookup: Lookup) -> None:
        """Look in all of the cache, waiting for it no longer than it may take."""
        lookup.fill(await self._cache.get_many(list(lookup.keys.values())))

    def answered(self, lookup: Lookup) -> Embedded:
        """Answer from a look that is complete."""
        embedded = lookup.hits()
        self._observer.vectors_answered(lookup.card.name, ["hit"] * len(embedded.embeddings))
        return embedded

    def cached(self, request: EmbedRequest, digests: Sequence[str], timings: Timings) -> Embedded | None:
        """Answer from what the cache has within reach, without waiting; None when that is not everything.

        Raises:
            ServiceError: as `looked` does.
        """
        start = perf_counter()
        lookup = self.looked(request, digests)
        if lookup is None or not lookup.complete:
            return None
        timings.stage("cache", perf_counter() - start)
        return self.answered(lookup)

    async def embed(
        self,
        request: EmbedRequest,
        images: Sequence[bytes],
        timings: Timings | None = None,
        digests: Sequence[str] | None = None,
        lookup: Lookup | None = None,
    ) -> Embedded:
        """Embed images with one version of one model.

        Args:
            request: which model, outputs and options.
            images: encoded, at least one.
            timings: is told how long the stages of this request took.
            digests: of the images, when they are known already.
            lookup: what the whole cache had, when it has been asked already; it is not asked again then.

        Raises:
            ServiceError: any leaf of the tree. What is wrong with one image begins with "Image 3: "; it is raised
                unless bad images are skipped. What is wrong with the model server is always raised.
        """
        if not images:
            raise BadRequest("Expected at least one image, received none.")
        if len(images) > self._limits.max_images:
            raise TooManyImages(f"Expected at most {self._limits.max_images} images a request, received {len(images)}.")
        own = timings or Timings(self._observer.stage)
        with self._budget.hold(len(images)):
            digests = digests or await self._digests(images, own.stage)
            card = await self._card(request)
            try:
                return await self._answer(card, request, digests, images, own, lookup)
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

    async def _answer(  # noqa: PLR0913, PLR0917, one step of the way, with all that was found out before
        self,
        card: ModelCard,
        request: EmbedRequest,
        digests: Sequence[str],
        images: Sequence[bytes],
        timings: Timings,
        lookup: Lookup | None = None,
    ) -> Embedded:
        if lookup is None or lookup.card is not card:
            lookup = Lookup(card, request.outputs, digests)
            if request.cache == "use":
                with timed(timings.stage, "cache"):
                    await self.look_further(lookup)
        journey = Journey(card, request, lookup.found, self._observer, timings)
        if not lookup.complete:
            missing = {pair: key for pair, key in lookup.keys.items() if pair not in lookup.found}
            # The first of equal images stands for all of them.
            first = dict(zip(reversed(digests), reversed(images), strict=True))
            await journey.fly(self._computing, self._flights, missing, first, digests)
        embeddings = [
            Embedding(index, name, journey.vectors[digest, name], journey.source((digest, name)))
            for index, digest in enumerate(digests)
            if digest not in journey.failed
            for name in lookup.names
        ]
        self._observer.vectors_answered(card.name, [embedding.cache for embedding in embeddings])
        return Embedded(card, embeddings, journey.errors(digests))

    async def _digests(self, images: Sequence[bytes], stages: Stages) -> list[str]:
        self._observer.images_arrived(len(images), sum(map(len, images)))
        with timed(stages, "hash"):
            return [
                await asyncio.to_thread(image_digest, image)
                if len(image) > _HASH_OFF_LOOP_BYTES
                else image_digest(image)
                for image in images
            ]
