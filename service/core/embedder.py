"""From encoded images and texts to vectors: hash, look up, compute what is missing.

Nothing is decoded before the cache lookup, and a request is answered by exactly one version of one model; one with
images and texts by two towers of one space. Nothing blocks the event loop: decoding, and tokenising long texts, run in
threads, everything else waits on sockets.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from time import perf_counter

from microtome.errors import (
    BadRequest,
    ModelNotReady,
    RequestRejected,
    TooManyImages,
)
from microtome.manifest import ModelCard
from microtome.regions import Region
from service.core.admission import Backlogs, Budget
from service.core.cache_keys import image_digest, private_digest, region_digest, text_digest
from service.core.compute import Computation, Encoded, RequestVectors, flight_key
from service.core.decoding import Decoding
from service.core.lookup import Lookup
from service.core.ports import Leases, ModelServer, Observer, Tokens, Towers, VectorCache, peek_of
from service.core.remote_images import MAX_TEXT, Text
from service.core.requests import Embedded, Embedding, EmbedRequest, ImageError, Kind, placed, takes_no_texts
from service.core.single_flight import SingleFlight
from service.core.timings import Stages, Timings, timed

_NOTHING = nullcontext()

_HASH_OFF_LOOP_BYTES = 1 << 20
"""Hashing more than this (0.6 ms) is worth a thread switch; hashlib releases the interpreter."""


_TOKENIZE_OFF_LOOP = 2000
"""Tokenising more characters than this (1 ms) is worth a thread switch; the library releases the interpreter."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """What one model has to embed of a request.

    Attributes:
        items: images, or token ids of texts.
        digests: of each.
        places: their indexes in the request.
        regions: of each image; none where all of each is wanted.
    """

    items: Sequence[Encoded]
    digests: Sequence[str]
    places: Sequence[int]
    regions: Sequence[Region] = ()
    kind: Kind = "Image"


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

    @property
    def max_images(self) -> int:
        """Images and texts that one request may have."""
        return self._limits.max_images

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
        items: Sequence[bytes | Text],
        timings: Timings | None = None,
        digests: Sequence[str] | None = None,
        lookup: Lookup | None = None,
        regions: Sequence[Region] = (),
        places: Sequence[int] | None = None,
    ) -> Embedded:
        """Embed images and texts, each kind with one version of one model.

        Args:
            request: which model, outputs and options.
            items: encoded images, and texts; at least one.
            timings: told how long the stages of this request took.
            digests: of the images for the request's tenant, when there are no texts and they are known already.
            lookup: a lookup in all tiers, when it has been done already; it is not repeated then.
            regions: of each image; none where all of each is wanted.
            places: the items' indexes in the request, where it has others; None for 0, 1, 2, …

        Raises:
            ServiceError: any leaf of the tree. What is wrong with one item begins with "Image 3: " or "Text 3: "; it
                is raised unless bad ones are skipped. What is wrong with the model server is always raised.
        """
        request.require_tenant()
        if not items:
            raise BadRequest("Expected at least one image, received none.")
        if len(items) > self._limits.max_images:
            raise TooManyImages(f"Expected at most {self._limits.max_images} images a request, received {len(items)}.")
        own = timings or Timings(self._observer.stage)
        places = places or range(len(items))
        if digests is None and any(isinstance(item, Text) for item in items):
            return await self._embed_texts(request, items, own, regions, places)
        images: Sequence[bytes] = items  # type: ignore[assignment]  # no texts
        with self._budget.hold(len(images)), self._bulk.hold(len(images)) if request.bulk else _NOTHING:
            digests = digests or await self._digests(images, own.stage, request.tenant, regions)
            asked = _Asked(images, digests, places, regions)
            card = await self._card(request)
            try:
                return await self._answer(card, request, asked, own, lookup)
            except ModelNotReady:
                # Unloaded since the server was last polled. Its successor answers the whole request, so that no answer
                # mixes two versions; a request for this version gets an error that lists the others.
                if request.version is None:
                    successor = await self._models.renewed(card, request.model)
                else:
                    successor = await self._card(request)
                if successor == card:
                    raise
                return await self._answer(successor, request, asked, own)

    async def _embed_texts(
        self,
        request: EmbedRequest,
        items: Sequence[bytes | Text],
        timings: Timings,
        regions: Sequence[Region],
        places: Sequence[int],
    ) -> Embedded:
        """Embed texts, and images beside them, with two towers of one space.

        The cache is asked before a place is taken: a search for words that are known is answered under any load. Long
        texts take their place first, since tokenising them is work.
        """
        rows = [row for row, item in enumerate(items) if isinstance(item, bytes)]
        images = None
        if rows:
            files = [item for item in items if isinstance(item, bytes)]
            parts = [regions[row] for row in rows] if regions else ()
            digests = await self._digests(files, timings.stage, request.tenant, parts)
            images = _Asked(files, digests, [places[row] for row in rows], parts)
        texts = {place: item.text for place, item in zip(places, items, strict=True) if isinstance(item, Text)}
        towers = await self._towers(request)
        found = None
        if not _long(texts):
            found = await self._looked_up(towers, request, images, texts, timings)
            if found.complete:
                return await self._joined(found, request, timings)
        with self._budget.hold(len(items)), self._bulk.hold(len(items)) if request.bulk else _NOTHING:
            gone: list[ModelCard] = []
            found = found or await self._looked_up(towers, request, images, texts, timings)
            try:
                return await self._joined(found, request, timings, gone)
            except ModelNotReady:
                if request.version is None:
                    for card in gone:
                        await self._models.renewed(card, request.model)
                successor = await self._towers(request)
                if successor == towers:
                    raise
                # The successor's tokenizer may be another one.
                found = await self._looked_up(successor, request, images, texts, timings)
                return await self._joined(found, request, timings)

    async def _towers(self, request: EmbedRequest) -> Towers:
        if request.version is None:
            return self._models.towers(request.model)
        return Towers.alone(await self._models.card_of(request.model, request.version))

    async def _looked_up(
        self,
        towers: Towers,
        request: EmbedRequest,
        images: _Asked | None,
        texts: Mapping[int, str],
        timings: Timings,
    ) -> "_Found":
        """Tokenise texts, by their places, for a pair of towers, and look everything up.

        Raises:
            RequestRejected: of the first bad text, unless bad ones are skipped.
        """
        written = await _token_ids(towers, texts, timings)
        errors = [
            ImageError(place, placed(error, place, "Text"))
            for place, error in written.items()
            if isinstance(error, RequestRejected)
        ]
        if errors and request.on_error == "fail":
            raise errors[0].error
        ids = {place: found for place, found in written.items() if not isinstance(found, RequestRejected)}
        digests = [private_digest(text_digest(found), request.tenant) for found in ids.values()]
        parts = [images] if images else []
        parts += [_Asked(list(ids.values()), digests, list(ids), kind="Text")] if ids else []
        lookups = [(asked, Lookup(towers.of(asked.kind), request.outputs, asked.digests)) for asked in parts]
        if request.cache == "use":
            with timed(timings.stage, "cache"):
                # Of one tick, so that they are one question to Redis.
                await asyncio.gather(*(self.look_further(lookup) for _, lookup in lookups))
        return _Found(towers.of("Image"), lookups, errors)

    async def _joined(
        self, found: "_Found", request: EmbedRequest, timings: Timings, gone: list[ModelCard] | None = None
    ) -> Embedded:
        """Answer images and texts, at the same time; a version that is gone is added to `gone`."""

        async def answer(asked: _Asked, lookup: Lookup) -> Embedded:
            try:
                return await self._answer(lookup.card, request, asked, timings, lookup)
            except ModelNotReady:
                if gone is not None:
                    gone.append(lookup.card)
                raise

        answering = [asyncio.ensure_future(answer(*part)) for part in found.parts]
        try:
            return found.joined(await asyncio.gather(*answering))
        finally:
            for one in answering:
                one.cancel()
            await asyncio.gather(*answering, return_exceptions=True)

    async def _card(self, request: EmbedRequest) -> ModelCard:
        if request.version is None:
            return self._models.card(request.model)
        return await self._models.card_of(request.model, request.version)

    async def _answer(
        self, card: ModelCard, request: EmbedRequest, asked: _Asked, timings: Timings, lookup: Lookup | None = None
    ) -> Embedded:
        digests, regions = asked.digests, asked.regions
        if lookup is None or lookup.card is not card:
            lookup = Lookup(card, request.outputs, digests)
            if request.cache == "use":
                with timed(timings.stage, "cache"):
                    await self.look_further(lookup)
        collected = RequestVectors(card, request, lookup.found, self._observer, timings, asked.places, asked.kind)
        if not lookup.complete:
            missing = {pair: key for pair, key in lookup.keys.items() if pair not in lookup.found}
            # Of equal images the first is computed.
            first = dict(zip(reversed(digests), reversed(asked.items), strict=True))
            parts = dict(zip(digests, regions, strict=True)) if regions else {}
            await collected.compute(self._computation, self._single_flight, missing, first, digests, parts)
        embeddings = [
            Embedding(index, name, collected.vectors[digest, name], collected.source((digest, name)))
            for index, digest in zip(asked.places, digests, strict=True)
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


@dataclass(frozen=True, slots=True)
class _Found:
    """What is known of a request with texts before anything is computed.

    Attributes:
        card: the image tower's version, or the only one.
        parts: what each tower has to embed, and what of it is cached; none where all texts are bad.
        errors: of bad texts that are skipped.
    """

    card: ModelCard
    parts: Sequence[tuple[_Asked, Lookup]]
    errors: Sequence[ImageError]

    @property
    def complete(self) -> bool:
        """Whether everything was cached."""
        return all(lookup.complete for _, lookup in self.parts)

    def joined(self, answers: Sequence[Embedded]) -> Embedded:
        """Return the answers to all parts as one."""
        embeddings = sorted((e for answer in answers for e in answer.embeddings), key=lambda e: e.index)
        errors = sorted([*self.errors, *(e for answer in answers for e in answer.errors)], key=lambda e: e.index)
        cards = [answer.card for answer in answers] or [self.card]
        text = cards[-1] if cards[-1] is not cards[0] else None
        texts = frozenset(e.index for e in answers[-1].embeddings) if text else frozenset()
        return Embedded(cards[0], embeddings, errors, text, texts)


async def _token_ids(
    towers: Towers, texts: Mapping[int, str], timings: Timings
) -> Mapping[int, Tokens | RequestRejected]:
    """Tokenise texts, in a thread if they are long; or return what is wrong with each."""
    if towers.text is None or towers.text.tokenizer is None:
        return {place: takes_no_texts(towers.of("Text")) for place in texts}
    tokenizer = towers.text.tokenizer

    def work() -> Mapping[int, Tokens | RequestRejected]:
        return {place: _too_long(text) or tokenizer(text) for place, text in texts.items()}

    with timed(timings.stage, "tokenize"):
        return await asyncio.to_thread(work) if _long(texts) else work()


def _long(texts: Mapping[int, str]) -> bool:
    return sum(map(len, texts.values())) > _TOKENIZE_OFF_LOOP


def _too_long(text: str) -> BadRequest | None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return BadRequest("Expected a text in Unicode; received one with half of a surrogate pair.")
    return BadRequest(f"Expected a text of at most {MAX_TEXT} bytes; received {size}.") if size > MAX_TEXT else None


def of_regions(digests: Mapping[int, str], images: Sequence[bytes], regions: Sequence[Region]) -> list[str]:
    """Return the digests of regions, from those of their images' files by identity: a file is hashed once."""
    return [region_digest(digests[id(image)], region) for image, region in zip(images, regions, strict=True)]
