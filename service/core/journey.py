"""One request's way through what is missing: board the flights that are under way, start the others, gather."""

import asyncio
from collections.abc import Mapping, Sequence

from microtome.manifest import ModelCard
from service.core.compute import Computing, Job
from service.core.deadline import Deadline, current
from service.core.ports import Observer, Vectors
from service.core.requests import EmbedRequest, ImageError, Source
from service.core.single_flight import Flight, Flights
from service.core.timings import Timings
from service.errors import ModelServerDown, RequestRejected, restated

Pair = tuple[str, str]
"""An image's digest and an output's name."""


class Journey:
    """Collects a request's vectors: those found in the cache, and those that are computed."""

    def __init__(
        self,
        card: ModelCard,
        request: EmbedRequest,
        found: Mapping[Pair, Vectors],
        observer: Observer,
        timings: Timings,
    ) -> None:
        self._card = card
        self._request = request
        self._observer = observer
        self._timings = timings
        self._sources: dict[Pair, Source] = {}
        self.vectors: dict[Pair, Vectors] = dict(found)
        self.failed: dict[str, RequestRejected] = {}
        """What is wrong with an image, by its digest."""

    def source(self, pair: Pair) -> Source:
        """Say where a vector came from."""
        return self._sources.get(pair, "hit")

    def errors(self, digests: Sequence[str]) -> list[ImageError]:
        """Return what is wrong with each bad image, in the order of the request."""
        return [
            ImageError(index, restated(self.failed[digest], f"Image {index}: {self.failed[digest]}"))
            for index, digest in enumerate(digests)
            if digest in self.failed
        ]

    async def fly(
        self,
        computing: Computing,
        flights: Flights,
        missing: Mapping[Pair, str],
        images: Mapping[str, bytes],
        digests: Sequence[str],
    ) -> None:
        """Compute what is missing, images side by side.

        Args:
            computing: does the work.
            flights: what is under way, of all requests.
            missing: cache keys by pair.
            images: encoded, by digest.
            digests: in the order of the request, to name the image that is wrong.

        Raises:
            ServiceError: of the first bad image unless bad ones are skipped, or of the model server.
        """
        boarded = self._board(computing, flights, missing, images)
        aboard = list(dict.fromkeys(boarded.values()))
        for flight in aboard:
            flight.board()
        try:
            await self._landed(aboard)
            for (digest, name), flight in boarded.items():
                if flight.task.done():
                    self._collect(digest, name, flight)
        finally:
            for flight in aboard:
                flight.leave()
        if self.failed and self._request.on_error == "fail":
            raise self.errors(digests)[0].error

    async def _landed(self, aboard: Sequence[Flight]) -> None:
        if len(aboard) == 1:
            await aboard[0].over()
            return
        until = asyncio.FIRST_EXCEPTION if self._request.on_error == "fail" else asyncio.ALL_COMPLETED
        await asyncio.wait([flight.task for flight in aboard], return_when=until)

    def _board(
        self, computing: Computing, flights: Flights, missing: Mapping[Pair, str], images: Mapping[str, bytes]
    ) -> dict[Pair, Flight]:
        boarded: dict[Pair, Flight] = {}
        lacking: dict[str, dict[str, str]] = {}
        for (digest, name), key in missing.items():
            # Who bypasses the cache wants to see the work done.
            under_way = flights.find(self._flight_key(key)) if self._request.cache != "bypass" else None
            self._sources[digest, name] = "miss" if under_way is None else "coalesced"
            if under_way is None:
                lacking.setdefault(digest, {})[name] = key
            else:
                under_way.deadline.extend(current())
                boarded[digest, name] = under_way
        for digest, names in lacking.items():
            timings, deadline = Timings(self._observer.stage), Deadline(current())
            job = Job(
                self._card,
                names,
                images[digest],
                self._request.cache,
                timings.stage,
                deadline,
            )
            keys = [self._flight_key(key) for key in names.values()] if self._request.cache != "bypass" else []
            flight = flights.start(keys, computing.vectors(job), timings, deadline)
            boarded |= {(digest, name): flight for name in names}
        return boarded

    def _flight_key(self, key: str) -> str:
        # A vector in the cache is right whichever version made it; work under way may fail with its version.
        return f"{self._card.version}:{key}"

    def _collect(self, digest: str, name: str, flight: Flight) -> None:
        if flight.task.cancelled():
            raise ModelServerDown("The gateway is stopping.")
        error = flight.task.exception()
        if isinstance(error, RequestRejected):
            self.failed[digest] = error
        elif error is not None:
            raise restated(error)
        else:
            landing = flight.task.result()
            self.vectors[digest, name] = landing.made[name]
            if name in landing.elsewhere:
                self._sources[digest, name] = "coalesced"
            for stage, seconds in flight.timings.seconds.items():
                self._timings.note(stage, seconds)
