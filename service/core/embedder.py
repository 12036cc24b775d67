"""From encoded images to vectors: hash, look up, compute what is missing.

Nothing is decoded before the cache lookup, and a request is answered by exactly one version of one model. Nothing
blocks the event loop: decoding runs in threads, everything else waits on sockets. Transports (HTTP, gRPC, contracts
of other systems) call `Intake`, which also fetches images by address and gives each image's error its place.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from time import perf_counter

from microtome.errors import BadRequest, ModelNotReady, NoImageEmbedded, ServiceError, TooManyImages
from microtome.manifest import ModelCard
from microtome.regions import Region
from service.core.admission import Backlogs, Budget
from service.core.cache_keys import image_digest, private_digest, region_digest
from service.core.compute import Computation, RequestVectors, flight_key
from service.core.decoding import Decoding
from service.core.lookup import Lookup
from service.core.ports import Leases, ModelServer, Observer, VectorCache, peek_of
from service.core.remote_images import Fetch, Image, Url
from service.core.requests import ALL, Embedded, Embedding, EmbedRequest, ImageError
from service.core.single_flight import SingleFlight
from service.core.timings import Stages, Timings, timed
from service.core.vectors import checked_dimensions, require_maps, require_quantization
from service.errors import restated

_NOTHING = nullcontext()

_HASH_OFF_LOOP_BYTES = 1 << 20
"""Hashing more than this (0.6 ms) is worth a thread switch; hashlib releases the interpreter."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may ask for, and how many seconds an image may be expected to wait for others."""

    max_images: int
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
        bulk: Budget | None = None,
        decoding: Decoding,
        observer: Observer,
        leases: Leases | None = None,
    ) -> None:
        self._models = models
        self._cache = cache
        self._peek = peek_of(cache)
        self._limits = limits
        self._budget = budget
        self._bulk = bulk or budget.for_bulk()
        self._observer = observer
        self._backlogs = Backlogs(limits.longest_wait)
        self._computation = Computation(models, cache, decoding, self._backlogs, leases=leases)
        self._single_flight = SingleFlight()

    def digests(self, images: Sequence[bytes], timings: Timings, tenant: str = "") -> list[str] | None:
        """Hash images on the event loop, for a tenant; None when one of them is so large that it is worth a thread."""
        if max(map(len, images)) > _HASH_OFF_LOOP_BYTES:
            return None
        self._observer.images_arrived(len(images), sum(map(len, images)))
        with timed(timings.stage, "hash"):
            digests = [image_digest(image) for image in images]
            return [private_digest(digest, tenant) for digest in digests] if tenant else digests

    def require_room(self, images: int, lookup: Lookup | None = None, *, bulk: bool = False) -> None:
        """Refuse so many images now if `embed` would: under overload refusing is most of the work.

        Args:
            images: how many there are.
            bulk: whether they are of a bulk request.
            lookup: an incomplete lookup of them in the whole cache, if it has been done.

        Raises:
            Overloaded: there is no room for them, or they would wait too long.
        """
        self._budget.require(images)
        if bulk:
            self._bulk.require(images)
        if lookup is not None and not self.joins(lookup):
            self._backlogs.of(lookup.card.name, bulk=bulk).require()

    def require_turn(self, model: str, before: int, *, bulk: bool = False) -> None:
        """Refuse one image that has not been looked up, if it would be refused as a miss.

        Args:
            model: that it is for.
            before: images that are being looked up, each of which takes a place first if it is a miss too.
            bulk: whether it is of a bulk request.

        Raises:
            Overloaded: as `require_room` does.
        """
        self._budget.require(1, before)
        if bulk:
            self._bulk.require(1)
        self._backlogs.of(model, bulk=bulk).require()

    def joins(self, lookup: Lookup) -> bool:
        """Whether any missing vector is being computed already, so that it need not wait for its turn."""
        return any(
            self._single_flight.find(flight_key(lookup.card, key))
            for pair, key in lookup.keys.items()
            if pair not in lookup.found
        )

    def looked(self, request: EmbedRequest, digests: Sequence[str]) -> Lookup | None:
        """Look a request up in the memory tier, without waiting; None when it does not use the cache.

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
        """Look up in all tiers of the cache."""
        lookup.fill(await self._cache.get_many(list(lookup.keys.values())))

    def answered(self, lookup: Lookup) -> Embedded:
        """Answer from a complete lookup."""
        embedded = lookup.hits()
        self._observer.vectors_answered(lookup.card.name, ["hit"] * len(embedded.embeddings))
        return embedded

    def cached(self, request: EmbedRequest, digests: Sequence[str], timings: Timings) -> Embedded | None:
        """Answer from the memory tier, without waiting; None when a vector is missing there.

        Raises:
            ServiceError: as `looked` does.
        """
        start = perf_counter()
        lookup = self.looked(request, digests)
        if lookup is None or not lookup.complete:
            return None
        timings.stage("cache", perf_counter() - start)
        return self.answered(lookup)

    async def embed(  # noqa: PLR0913, PLR0917, one step, with all that is known before
        self,
        request: EmbedRequest,
        images: Sequence[bytes],
        timings: Timings | None = None,
        digests: Sequence[str] | None = None,
        lookup: Lookup | None = None,
        regions: Sequence[Region] = (),
    ) -> Embedded:
        """Embed images with one version of one model.

        Args:
            request: which model, outputs and options.
            images: encoded, at least one.
            timings: told how long the stages of this request took.
            digests: of the images for the request's tenant, when they are known already.
            lookup: a lookup in all tiers, when it has been done already; it is not repeated then.
            regions: of each image; none where all of each is wanted.

        Raises:
            ServiceError: any leaf of the tree. What is wrong with one image begins with "Image 3: "; it is raised
                unless bad images are skipped. What is wrong with the model server is always raised.
        """
        request.require_tenant()
        if not images:
            raise BadRequest("Expected at least one image, received none.")
        if len(images) > self._limits.max_images:
            raise TooManyImages(f"Expected at most {self._limits.max_images} images a request, received {len(images)}.")
        own = timings or Timings(self._observer.stage)
        with self._budget.hold(len(images)), self._bulk.hold(len(images)) if request.bulk else _NOTHING:
            digests = digests or await self._digests(images, own.stage, request.tenant, regions)
            card = await self._card(request)
            try:
                return await self._answer(card, request, digests, images, own, regions, lookup)
            except ModelNotReady:
                # Unloaded since the server was last polled. Its successor answers the whole request, so that no answer
                # mixes two versions; a request for this version gets an error that lists the others.
                successor = await self._models.renewed(card) if request.version is None else await self._card(request)
                if successor == card:
                    raise
                return await self._answer(successor, request, digests, images, own, regions)

    async def _card(self, request: EmbedRequest) -> ModelCard:
        if request.version is None:
            return self._models.card(request.model)
        return await self._models.card_of(request.model, request.version)

    async def _answer(  # noqa: PLR0913, PLR0917, one step, with all that is known before
        self,
        card: ModelCard,
        request: EmbedRequest,
        digests: Sequence[str],
        images: Sequence[bytes],
        timings: Timings,
        regions: Sequence[Region],
        lookup: Lookup | None = None,
    ) -> Embedded:
        if lookup is None or lookup.card is not card:
            lookup = Lookup(card, request.outputs, digests)
            if request.cache == "use":
                with timed(timings.stage, "cache"):
                    await self.look_further(lookup)
        collected = RequestVectors(card, request, lookup.found, self._observer, timings)
        if not lookup.complete:
            missing = {pair: key for pair, key in lookup.keys.items() if pair not in lookup.found}
            # Of equal images the first is computed.
            first = dict(zip(reversed(digests), reversed(images), strict=True))
            parts = dict(zip(digests, regions, strict=True)) if regions else {}
            await collected.compute(self._computation, self._single_flight, missing, first, digests, parts)
        embeddings = [
            Embedding(index, name, collected.vectors[digest, name], collected.source((digest, name)))
            for index, digest in enumerate(digests)
            if digest not in collected.failed
            for name in lookup.names
        ]
        self._observer.vectors_answered(card.name, [embedding.cache for embedding in embeddings])
        return Embedded(card, embeddings, collected.errors(digests))

    async def _digests(
        self, images: Sequence[bytes], stages: Stages, tenant: str, regions: Sequence[Region] = ()
    ) -> list[str]:
        if regions:
            files = {id(image): image for image in images}
            found = await self._digests(list(files.values()), stages, tenant)
            return of_regions(dict(zip(files, found, strict=True)), images, regions)
        self._observer.images_arrived(len(images), sum(map(len, images)))
        with timed(stages, "hash"):
            digests = [
                await asyncio.to_thread(image_digest, image)
                if len(image) > _HASH_OFF_LOOP_BYTES
                else image_digest(image)
                for image in images
            ]
            return [private_digest(digest, tenant) for digest in digests]


def of_regions(digests: Mapping[int, str], images: Sequence[bytes], regions: Sequence[Region]) -> list[str]:
    """Return the digests of regions, from those of their images' files by identity: a file is hashed once."""
    return [region_digest(digests[id(image)], region) for image, region in zip(images, regions, strict=True)]


@dataclass(frozen=True, slots=True)
class Intake:
    """What every transport calls: check, hold budgets, fetch, embed, and give each image's error its place.

    Attributes:
        fetch: fetches images by address.
        bodies: bytes of images in flight, of all transports together.
        bulk_bodies: those of bulk requests; None bounds them no further.
        fetched_bytes: the most that fetched images of one request may have, held while they are fetched.
        default_model: used when a request names no model; empty where the only model is meant.
        deadline: the most seconds that a request may take.
        required: models without which the gateway is not ready.
        cache_answers: whether a cache is there that can be asked.
    """

    embedder: Embedder
    models: ModelServer
    fetch: Fetch
    bodies: Budget
    fetched_bytes: int
    observer: Observer
    default_model: str
    deadline: float
    required: Collection[str] = ()
    cache_answers: Callable[[], bool] = lambda: True
    bulk_bodies: Budget | None = None

    def ready(self) -> bool:
        """Whether anything can be answered: by a model, or from the cache for a model that has been known.

        Without one of the models that are required, nothing counts.
        """
        troubles = self.troubles()
        if any(troubles[name] is not None for name in self.required):
            return False
        if any(trouble is None for trouble in troubles.values()):
            return True
        return self.cache_answers() and any(card is not None for card in self.models.cards().values())

    def troubles(self) -> dict[str, str | None]:
        """Return what is wrong with each model, None for nothing; also with one that is required and not there."""
        return {**dict.fromkeys(self.required, "No model server has it."), **self.models.readiness()}

    def check(
        self, request: EmbedRequest, *, dimensions: int | None, normalize: bool, int8: bool, heat: bool = False
    ) -> None:
        """Refuse, before any work, what the model's outputs do not have.

        Args:
            request: which model and outputs.
            dimensions: how many numbers of each vector are asked for, None for all.
            normalize: whether vectors shall have the length 1.
            int8: whether they shall be written by calibrated ranges.
            heat: whether the activity at each position of a map is asked for.

        Raises:
            BadRequest: a cut longer than a vector; int8 of an output without ranges, or of normalised vectors; heat of
                an output without a map.
            ServiceError: the model cannot be asked now.
        """
        if int8 and normalize:
            raise BadRequest(
                "Expected int8 without `normalize`: its ranges are those of vectors as the model makes them."
            )
        if dimensions is None and not int8 and not heat:
            return
        card = self.models.card(request.model)
        names = request.outputs if request.outputs and request.outputs != (ALL,) else tuple(card.outputs)
        names = names if request.outputs else (card.manifest.default_output,)
        outputs = [card.outputs[name] for name in names if name in card.outputs]
        checked_dimensions(dimensions, outputs)
        if int8:
            require_quantization(outputs)
        if heat:
            require_maps(outputs)

    def digests(
        self, images: Sequence[Image], timings: Timings, tenant: str = "", regions: Sequence[Region] = ()
    ) -> list[str] | None:
        """Hash images now, for a tenant; None when one has not arrived, or is large enough to be worth a thread."""
        if not images or not all(isinstance(image, bytes) for image in images):
            return None
        arrived: Sequence[bytes] = images  # type: ignore[assignment]  # all are bytes
        if not regions:
            return self.embedder.digests(arrived, timings, tenant)
        files = {id(image): image for image in arrived}
        found = self.embedder.digests(list(files.values()), timings, tenant)
        return None if found is None else of_regions(dict(zip(files, found, strict=True)), arrived, regions)

    async def embed(  # noqa: PLR0913, one step, with all that is known before
        self,
        request: EmbedRequest,
        images: Sequence[Image],
        timings: Timings,
        *,
        own: Budget | None = None,
        digests: Sequence[str] | None = None,
        lookup: Lookup | None = None,
        regions: Sequence[Region] = (),
    ) -> Embedded:
        """Embed the images that have arrived whole, and return the others' errors with them.

        Args:
            request: which model, outputs and options.
            images: as they came, at least one.
            timings: told how long the stages took.
            own: the budget of the caller's key, in images.
            digests: of the images for the request's tenant, when they are known already.
            lookup: a lookup in all tiers, when it has been done already.
            regions: of each image; none where all of each is wanted. Each counts as an image.

        Raises:
            ServiceError: any leaf of the tree; what is wrong with one image begins with "Image 3: ".
        """
        with own.hold(len(images)) if own is not None else _NOTHING, self._share(request, images):
            if not any(isinstance(image, Url) for image in images):
                arrived: Sequence[bytes | ServiceError] = images  # type: ignore[assignment]  # no addresses
                return await self._embedded(request, arrived, timings, digests, lookup, regions)
            with self.bodies.hold(self.fetched_bytes):
                with timed(timings.stage, "fetch"):
                    # An address with several regions is fetched once.
                    files = {id(image): image for image in images}
                    fetched = dict(zip(files, await self.fetch(list(files.values())), strict=True))
                arrived = [fetched[id(image)] for image in images]
                return await self._embedded(request, arrived, timings, digests, lookup, regions)

    def _share(self, request: EmbedRequest, images: Sequence[Image]) -> AbstractContextManager[None]:
        """Hold the bytes of a bulk request, which have arrived or will be fetched, in its share of them."""
        if not request.bulk or self.bulk_bodies is None:
            return _NOTHING
        sizes = (len(image) if isinstance(image, bytes) else 0 for image in images)
        fetched = any(isinstance(image, Url) for image in images)
        return self.bulk_bodies.hold(sum(sizes) + fetched * self.fetched_bytes)

    async def _embedded(  # noqa: PLR0913, PLR0917, one step, with all that is known before
        self,
        request: EmbedRequest,
        images: Sequence[bytes | ServiceError],
        timings: Timings,
        digests: Sequence[str] | None,
        lookup: Lookup | None,
        regions: Sequence[Region],
    ) -> Embedded:
        bad = {index: image for index, image in enumerate(images) if isinstance(image, ServiceError)}
        if bad and request.on_error == "fail":
            index, error = next(iter(bad.items()))
            raise restated(error, f"Image {index}: {error}")
        good = {index: image for index, image in enumerate(images) if isinstance(image, bytes)}
        if bad and not good:
            raise NoImageEmbedded({index: restated(e, f"Image {index}: {e}") for index, e in bad.items()})
        parts = [regions[index] for index in good] if regions else ()
        embedded = await self.embedder.embed(request, list(good.values()), timings, digests, lookup, parts)
        merged = _merged(embedded, list(good), bad) if bad else embedded
        if not merged.embeddings:
            raise NoImageEmbedded({e.index: e.error for e in merged.errors})
        return merged


def _merged(embedded: Embedded, indexes: Sequence[int], bad: Mapping[int, ServiceError]) -> Embedded:
    """Renumber images by their places in the request, some of whose images never reached the core."""
    errors = [ImageError(index, restated(error, f"Image {index}: {error}")) for index, error in bad.items()]
    for one in embedded.errors:
        index = indexes[one.index]
        words = str(one.error).removeprefix(f"Image {one.index}: ")
        errors.append(ImageError(index, restated(one.error, f"Image {index}: {words}")))
    embeddings = [replace(e, index=indexes[e.index]) for e in embedded.embeddings]
    return Embedded(embedded.card, embeddings, sorted(errors, key=lambda e: e.index))
