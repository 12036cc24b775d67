"""Compute the vectors that a request lacks: join the flights under way, start the others, collect.

One image is decoded, inferred and stored, or another gateway that does so is waited for.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter

import numpy as np

from microtome.errors import DeadlineExceeded, ModelServerDown, RequestRejected, UnsupportedModality
from microtome.manifest import InputSpec, ModelCard
from microtome.regions import WHOLE, Region
from service.core.admission import Backlogs, BulkGate
from service.core.decoding import Decoding, Parts
from service.core.lookup import Pair
from service.core.ports import Leases, ModelServer, Observer, Pixels, Tokens, VectorCache, Vectors
from service.core.requests import CacheUse, EmbedRequest, ImageError, Kind, Source, placed
from service.core.single_flight import Flight, GatewaySingleFlight, NoLeases, OutputVectors, Result, SingleFlight
from service.core.timeouts import Deadline, current_deadline
from service.core.timings import Stages, Timings, timed
from service.errors import restated

Encoded = bytes | Tokens
"""One item to compute: an image's file, or the token ids of a text."""


@dataclass(frozen=True, slots=True)
class Job:
    """One image or text to compute.

    Attributes:
        card: the version to ask.
        keys: cache keys by the name of the output.
        encoded: the image's file, or the text's ids.
        parts: regions of the image that are decoded together; None where all of it is wanted.
        region: of these, the one that is wanted.
        cache: whether other gateways are asked, and the vectors stored.
        stages: told how long decoding, waiting for a place in a batch and inference took.
        deadline: when the last waiter gives up, and whether all of them are bulk requests.
    """

    card: ModelCard
    keys: Mapping[str, str]
    encoded: Encoded
    cache: CacheUse
    stages: Stages
    deadline: Deadline
    parts: Parts | None = None
    region: Region = WHOLE


class Computation:
    """Computes images."""

    def __init__(
        self,
        models: ModelServer,
        cache: VectorCache,
        decoding: Decoding,
        backlogs: Backlogs,
        *,
        leases: Leases | None = None,
    ) -> None:
        self._models = models
        self._cache = cache
        self._decoding = decoding
        self._backlogs = backlogs
        self._gateways = GatewaySingleFlight(leases or NoLeases())
        # One more than are decoded at a time, so that no thread waits for the event loop.
        self._bulk = BulkGate(decoding.at_a_time + 1)

    async def vectors(self, job: Job) -> Result:
        """Return one image's vectors by output, each float32 [D].

        Raises:
            ServiceError: any leaf of the tree but those of the request's form.
        """
        compute = partial(self._compute, job)
        if job.cache != "use":
            # `refresh` and `bypass` never take what another gateway has computed.
            return Result(await compute(list(job.keys)))
        dims = {name: output.dim for name, output in job.card.outputs.items()}
        return await self._gateways.vectors(job.keys, dims, compute, job.stages)

    async def _compute(self, job: Job, outputs: Sequence[str]) -> OutputVectors:
        encoded = job.encoded
        with self._backlogs.entered(job.card.name, bulk=job.deadline.bulk):
            taken = encoded if isinstance(encoded, np.ndarray) else await self._decoded(job, encoded)
            answer = await self._infer(job, outputs, taken)
        vectors = {name: answer[name][0] for name in outputs}
        if job.cache != "bypass":
            await self._cache.put_many(
                {job.keys[name]: vector.astype("<f4", copy=False).tobytes() for name, vector in vectors.items()}
            )
        return vectors

    async def _decoded(self, job: Job, encoded: bytes) -> Pixels:
        spec = job.card.manifest.input
        if not isinstance(spec, InputSpec):
            raise UnsupportedModality(
                f"Expected a text for model {job.card.name!r}, a text tower; received an image. "
                f"Name its family, {job.card.manifest.family!r}, to embed both."
            )
        waited = job.deadline.bulk and await self._entered(job)
        try:
            with timed(job.stages, "decode"):
                if job.parts is None:
                    return await self._decoding.pixels(encoded, spec)
                return await job.parts.pixels(job.region)
        finally:
            if waited:
                self._bulk.leave()

    async def _entered(self, job: Job) -> bool:
        start = perf_counter()
        placed = await self._bulk.enter(job.deadline)
        job.stages("queue", perf_counter() - start)
        return placed

    def parts(self, card: ModelCard, encoded: bytes, regions: Sequence[Region]) -> Parts:
        """Prepare to decode regions of one image together."""
        return Parts(self._decoding, encoded, card.manifest.pixels, regions)

    async def _infer(self, job: Job, outputs: Sequence[str], taken: Pixels | Tokens) -> Mapping[str, Vectors]:
        while True:
            until = job.deadline.at
            try:
                return await self._models.infer(job.card, outputs, [taken], job.stages, job.deadline)
            except DeadlineExceeded:
                # It was sent with the deadline of that time; a request with a later one has joined meanwhile.
                if job.deadline.at <= until:
                    raise


class RequestVectors:
    """Collects the vectors of one request's images, or texts: those in the cache, and those that are computed."""

    def __init__(  # noqa: PLR0913, PLR0917, all that one request has
        self,
        card: ModelCard,
        request: EmbedRequest,
        found: Mapping[Pair, Vectors],
        observer: Observer,
        timings: Timings,
        places: Sequence[int],
        kind: Kind,
    ) -> None:
        self._card = card
        self._places = places
        self._kind = kind
        self._request = request
        self._observer = observer
        self._timings = timings
        self._sources: dict[Pair, Source] = {}
        self.vectors: dict[Pair, Vectors] = dict(found)
        self.failed: dict[str, RequestRejected] = {}
        """What is wrong with an image, by its digest."""

    def source(self, pair: Pair) -> Source:
        """Return where a vector came from."""
        return self._sources.get(pair, "hit")

    def errors(self, digests: Sequence[str]) -> list[ImageError]:
        """Return what is wrong with each bad item, in the order of the request."""
        return [
            ImageError(index, placed(self.failed[digest], index, self._kind))
            for index, digest in zip(self._places, digests, strict=True)
            if digest in self.failed
        ]

    async def compute(  # noqa: PLR0913, PLR0917, all that one request has
        self,
        computation: Computation,
        single_flight: SingleFlight,
        missing: Mapping[Pair, str],
        images: Mapping[str, Encoded],
        digests: Sequence[str],
        regions: Mapping[str, Region],
    ) -> None:
        """Compute what is missing, images in parallel.

        Args:
            computation: does the work.
            single_flight: what is under way, of all requests.
            missing: cache keys by pair.
            images: encoded, or token ids of texts, by digest.
            digests: in the order of the request, to name the image that is wrong.
            regions: of images, by digest; none where all of each is wanted.

        Raises:
            ServiceError: of the first bad image unless bad ones are skipped, or of the model server.
        """
        by_pair = self._flights(computation, single_flight, missing, images, regions)
        flights = list(dict.fromkeys(by_pair.values()))
        for flight in flights:
            flight.join()
        try:
            until = asyncio.FIRST_EXCEPTION if self._request.on_error == "fail" else asyncio.ALL_COMPLETED
            await asyncio.wait([flight.task for flight in flights], return_when=until)
            for (digest, name), flight in by_pair.items():
                if flight.task.done():
                    self._collect(digest, name, flight)
        finally:
            for flight in flights:
                flight.leave()
        if self.failed and self._request.on_error == "fail":
            raise self.errors(digests)[0].error

    def _flights(
        self,
        computation: Computation,
        single_flight: SingleFlight,
        missing: Mapping[Pair, str],
        images: Mapping[str, Encoded],
        regions: Mapping[str, Region],
    ) -> dict[Pair, Flight]:
        # `cache=bypass` never joins work already in flight, and `refresh` only work that takes nothing from the cache.
        shared, fresh = self._request.cache != "bypass", self._request.cache != "use"
        flights: dict[Pair, Flight] = {}
        started: dict[str, dict[str, str]] = {}
        for (digest, name), key in missing.items():
            under_way = single_flight.find(flight_key(self._card, key), fresh=fresh) if shared else None
            self._sources[digest, name] = "miss" if under_way is None else "coalesced"
            if under_way is None:
                started.setdefault(digest, {})[name] = key
            else:
                under_way.deadline.extend(current_deadline())
                if not self._request.bulk:
                    under_way.deadline.hurry()
                flights[digest, name] = under_way
        parts = self._parts(computation, images, regions, started) if regions else {}
        for digest, keys in started.items():
            timings = Timings(self._observer.stage)
            deadline = Deadline(current_deadline(), bulk=self._request.bulk)
            job = Job(self._card, keys, images[digest], self._request.cache, timings.stage, deadline)
            if digest in parts:
                job = replace(job, parts=parts[digest], region=regions[digest])
            found_under = [flight_key(self._card, key) for key in keys.values()] if shared else []
            flight = single_flight.start(found_under, computation.vectors(job), timings, deadline, fresh=fresh)
            flights |= {(digest, name): flight for name in keys}
        return flights

    def _parts(
        self,
        computation: Computation,
        images: Mapping[str, Encoded],
        regions: Mapping[str, Region],
        started: Iterable[str],
    ) -> dict[str, Parts]:
        """Group what is to be computed by the image's file, since a file is decoded once."""
        together: dict[int, list[str]] = {}
        for digest in started:
            together.setdefault(id(images[digest]), []).append(digest)
        found: dict[str, Parts] = {}
        for digests in together.values():
            file = images[digests[0]]
            if isinstance(file, bytes) and isinstance(self._card.manifest.input, InputSpec):
                parts = computation.parts(self._card, file, [regions[digest] for digest in digests])
                found |= dict.fromkeys(digests, parts)
        return found

    def _collect(self, digest: str, name: str, flight: Flight) -> None:
        if flight.task.cancelled():
            raise ModelServerDown("The gateway is stopping.")
        error = flight.task.exception()
        if isinstance(error, RequestRejected):
            self.failed[digest] = error
        elif error is not None:
            raise restated(error)
        else:
            result = flight.task.result()
            self.vectors[digest, name] = result.vectors[name]
            if name in result.elsewhere:
                self._sources[digest, name] = "coalesced"
            for stage, seconds in flight.timings.seconds.items():
                self._timings.note(stage, seconds)


def flight_key(card: ModelCard, key: str) -> str:
    """Return the key under which a vector's flight is found.

    A vector in the cache is right whichever version computed it; work under way may fail with its version.
    """
    return f"{card.version}:{key}"
