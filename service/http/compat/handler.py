"""The handler that all contracts of other systems share, between parsing a request and writing its response."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from microtome.errors import BadRequest
from microtome.manifest import ModelCard
from service.auth import asked_by
from service.core.intake import Intake
from service.core.ports import Observer
from service.core.remote_images import Image, Text
from service.core.requests import Embedded, EmbedRequest
from service.core.timeouts import within
from service.core.timings import Timings, timed
from service.core.vectors import checked_dimensions
from service.http.bodies import BodyLimits, BodyReader, read_off_loop
from service.http.compat.texts import require_text
from service.http.disconnects import CLIENT_CLOSED_REQUEST, CallerGone, Disconnects
from service.http.middleware import caller_of, note
from service.http.parameters import seconds_allowed
from service.http.problems import ErrorWriter
from service.http.responses import in_header

_UNLIMITED = nullcontext()

_ORIGIN: Mapping[str, Callable[[ModelCard], str]] = {
    "X-Model": lambda card: in_header(card.name),
    "X-Model-Version": lambda card: str(card.version),
    "X-Fingerprint": lambda card: card.manifest.fingerprint,
}
"""Headers that say who has answered; of images and texts the image tower first."""


@dataclass(frozen=True, slots=True)
class CompatRequest:
    """A request of another system's contract in the core's terms, and the writer of its response.

    Attributes:
        request: model, outputs and options.
        images: at least one.
        write: writes the vectors, which are raw, as the contract has it; cuts and normalises them if asked to.
        dimensions: numbers of each vector asked for; checked before any work.
        normalize: whether vectors are to be normalised.
        int8: whether calibrated ranges are needed; checked before any work.
        in_thread: whether `write` runs in a thread, since it decodes image headers.
        whole: whether a text that would be cut is refused.
    """

    request: EmbedRequest
    images: Sequence[Image]
    write: Callable[[Embedded], Response]
    dimensions: int | None = None
    normalize: bool = False
    int8: bool = False
    in_thread: bool = False
    whole: bool = False


@dataclass(frozen=True, slots=True)
class CompatHandler:
    """Serves requests of other systems' contracts with the limits, budgets and deadlines of POST /embed.

    Attributes:
        intake: the way to the core.
        reader: reads bodies within limits.
        observer: gets the duration of each stage.
    """

    intake: Intake
    reader: BodyReader
    observer: Observer
    _disconnects: Disconnects = field(default_factory=Disconnects, init=False)

    @property
    def limits(self) -> BodyLimits:
        """Bytes and images that a request may have."""
        return self.reader.limits

    def post(
        self,
        router: APIRouter,
        path: str,
        read: Callable[..., CompatRequest],
        **documentation: Any,  # noqa: ANN401, arguments of FastAPI
    ) -> None:
        """Add a route that serves POST `path`.

        Args:
            router: gets the route.
            path: of the route.
            read: parses the body; called with it, and with `default_model` and `limits`.
            documentation: name, summary, description and further arguments of the route for the OpenAPI document.
        """
        reader = partial(read, default_model=self.intake.default_model, limits=self.limits)

        async def endpoint(request: Request) -> Response:
            return await self.serve(request, reader)

        router.add_api_route(path, endpoint, methods=["POST"], response_class=Response, **documentation)

    async def serve(self, request: Request, read: Callable[[bytes | bytearray], CompatRequest]) -> Response:
        """Read a request's body, ask the core, and write the response.

        Args:
            request: with its body unread; its Content-Type does not matter.
            read: parses the body, in a thread if it is large, and counts its images; raises leaves of the error tree.

        Raises:
            ServiceError: any leaf; the contract's error writer writes it.
        """
        try:
            async with within(seconds_allowed(request.scope, self.intake.deadline)):
                return await self._served(request, read)
        except CallerGone:
            return Response(status_code=CLIENT_CLOSED_REQUEST)

    async def _served(self, request: Request, read: Callable[[bytes | bytearray], CompatRequest]) -> Response:
        timings = Timings(self.observer.stage)
        note(request.scope, stages=timings.seconds)
        caller, size = caller_of(request.scope), self.reader.size(request.scope, json=True)
        rate = caller.rate if caller else None
        if rate:
            rate.require()
        start = perf_counter()
        with self.reader.budget.hold(size), caller.bodies.hold(size) if caller and caller.bodies else _UNLIMITED:
            body = await self.reader.text(request.receive)
            timings.stage("read", perf_counter() - start)
            asked = await read_off_loop(read, body)
            del body
            self._check(asked)
            if rate:
                await rate.take(len(asked.images) + self.intake.zero_shot.texts(asked.request))
            note(request.scope, images=len(asked.images), model=asked.request.model[:80])
            with self._disconnects.watched(request.receive):
                own = caller.images if caller else None
                embedded = await self.intake.embed(asked_by(caller, asked.request), asked.images, timings, own=own)
        # Again, since another version may have come into use since the first check; and texts have their own tower.
        checked_dimensions(asked.dimensions, list(map(embedded.output, embedded.embeddings[:64])))
        with timed(timings.stage, "encode"):
            response = await asyncio.to_thread(asked.write, embedded) if asked.in_thread else asked.write(embedded)
        for name, of in _ORIGIN.items():
            response.headers[name] = ", ".join(map(of, embedded.cards))
        return response

    def _check(self, asked: CompatRequest) -> None:
        if not asked.images:
            raise BadRequest("Expected at least one image, received none.")
        if any(isinstance(image, Text) for image in asked.images):
            require_text(self.intake.models.towers(asked.request.model), asked.images, whole=asked.whole)
        self.intake.check(asked.request, dimensions=asked.dimensions, normalize=asked.normalize, int8=asked.int8)


@dataclass(frozen=True, slots=True)
class Dialect:
    """One contract of another system.

    Attributes:
        name: its name in the setting `MICROTOME_DIALECTS`.
        title: its heading in the OpenAPI document.
        paths: where `write_error` writes all errors, including a missing API key and an unknown path. A path that ends
            with a slash covers all paths below it; the longest match wins.
        add_routes: adds its routes to a router.
        write_error: writes an error as the contract has it.
        public_paths: paths that need no API key, such as health checks.
    """

    name: str
    title: str
    paths: tuple[str, ...]
    add_routes: Callable[[APIRouter, CompatHandler], None]
    write_error: ErrorWriter
    public_paths: frozenset[str] = frozenset()
