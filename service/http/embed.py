"""POST /embed: images in, vectors out."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from http import HTTPStatus
from time import perf_counter

from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.types import Receive, Scope

from service.auth import Caller
from service.core.embedder import Intake
from service.core.lookup import Lookup
from service.core.remote_images import Image
from service.core.requests import Embedded
from service.core.timeouts import SharedTimeout, within
from service.core.timings import Timings, timed
from service.core.vectors import checked_dimensions
from service.http import access, documentation
from service.http.bodies import BodyReader
from service.http.disconnects import CallerGone, Callers, allowed
from service.http.head import head
from service.http.parameters import read_options
from service.http.raw import RawHeaders, RawResponse, raw
from service.http.repeats import Repeats, server_timing
from service.http.responses import encoded, in_header
from service.http.schemas import EmbedAnswer
from service.http.ways import Way, Ways, query_items
from service.telemetry.metrics import Metrics

PATH = "/embed"

_CLIENT_CLOSED_REQUEST = 499
"""nginx's, for the metrics; nobody receives it."""

_NOTHING = nullcontext()


@dataclass(frozen=True, slots=True)
class EmbedEndpoint:
    """The route's collaborators."""

    intake: Intake
    reader: BodyReader
    metrics: Metrics
    repeats: Repeats
    ways: Ways
    _callers: Callers = field(default_factory=Callers, init=False)
    _patience: SharedTimeout = field(init=False)

    def __post_init__(self) -> None:
        """Have one timer for all requests that say nothing of their time."""
        object.__setattr__(self, "_patience", SharedTimeout(self.intake.deadline))

    async def post(self, request: Request) -> Response:
        """Turn images into vectors: one image as the body, several as file parts of a form, or JSON.

        Every vector of an answer comes from the same version of the same model, which the answer names. The answer's
        form is chosen by `Accept`; options may stand in the query string or in the JSON body.
        """
        return await self.answer(request, Timings(self.metrics.stage))

    async def answer(self, request: Request, timings: Timings, digest: str | None = None) -> Response:
        """Answer a request.

        Args:
            request: with its body still to be read.
            timings: what the request has passed already, and is told the rest.
            digest: of the body, when it has been read and is one image.

        Raises:
            ServiceError: any leaf of the tree.
        """
        access.note(request.scope, stages=timings.seconds)
        try:
            async with within(allowed(request, self.intake.deadline)):
                return await self._answered(request, timings, digest)
        except CallerGone:
            return Response(status_code=_CLIENT_CLOSED_REQUEST)

    async def computed(  # noqa: PLR0913, PLR0917, one step of the way, with all that was found out before
        self, scope: Scope, receive: Receive, way: Way, body: bytes, digest: str, lookup: Lookup, timings: Timings
    ) -> Response:
        """Answer a request for one image that has been read, checked and looked up, and is not in the cache.

        Args:
            scope: of a request without a word on its time.
            receive: tells when the caller has gone.
            way: what is asked for.
            body: the image.
            digest: of the image.
            lookup: what the whole cache had.
            timings: what the request has passed already, and is told the rest.

        Raises:
            ServiceError: any leaf of the tree.
        """
        caller: Caller | None = scope.get("microtome.caller")
        images, bodies = (caller.images, caller.bodies) if caller else (None, None)
        try:
            async with within(self.intake.deadline, self._patience):
                with (
                    self.reader.budget.hold(len(body)),
                    bodies.hold(len(body)) if bodies else _NOTHING,
                    self._callers.waiting(receive),
                ):
                    embedded = await self.intake.embed(
                        way.request, [body], timings, own=images, digests=[digest], lookup=lookup
                    )
                return self.written(scope, embedded, way, timings, digest)
        except CallerGone:
            return Response(status_code=_CLIENT_CLOSED_REQUEST)

    def digest(self, body: bytes, timings: Timings) -> str | None:
        """Hash a body that is one image; None when it is so large that this is worth a thread."""
        return _only(self.intake.digests([body], timings))

    def check(self, scope: Scope, way: Way, *, images: int) -> None:
        """Refuse what the model's outputs do not have, and note what is asked for.

        Raises:
            ServiceError: as `Intake.check` does.
        """
        dimensions, normalize = way.options.dimensions, way.options.normalize
        self.intake.check(way.request, dimensions=dimensions, normalize=normalize, int8=way.encoding == "int8")
        access.note(scope, images=images, model=way.request.model[:80])

    def written(
        self, scope: Scope, embedded: Embedded, way: Way, timings: Timings, repeatable: str | None
    ) -> RawResponse:
        """Write an answer, and keep it if it is all hits for an image with the digest `repeatable`.

        Raises:
            BadRequest: the version that answered, which may not be the one that was looked at, has shorter vectors than
                are asked for.
        """
        card = embedded.card
        checked_dimensions(way.options.dimensions, [card.outputs[e.output] for e in embedded.embeddings[:64]])
        with timed(timings.stage, "encode"):
            answer = encoded(embedded, way.options, way.form, way.encoding)
        sources = {e.cache for e in embedded.embeddings}
        source = sources.pop() if len(sources) == 1 else "mixed"
        headers = [
            *_naming(card.name, card.version, card.manifest.fingerprint, source, way.form.media_type),
            (b"content-length", b"%d" % len(answer.body)),
            *raw(answer.headers),
        ]
        if repeatable and way.request.version is None and source == "hit":
            self.repeats.keep(scope, repeatable, card, headers, answer.body)
        status = HTTPStatus.MULTI_STATUS if embedded.errors else HTTPStatus.OK
        return RawResponse(status, [*headers, server_timing(timings)], answer.body)

    async def _answered(self, request: Request, timings: Timings, digest: str | None) -> Response:
        scope = request.scope
        caller: Caller | None = scope.get("microtome.caller")
        own = (caller.bodies,) if caller and caller.bodies else ()
        read_options(query_items(scope["query_string"]), {})
        no_cache = b"no-cache" in head(scope).get(b"cache-control", b"").lower()
        start = perf_counter()
        async with self.reader.received(request, *own) as received:
            if digest is None:
                timings.stage("read", perf_counter() - start)
            digests = [digest] if digest else self.intake.digests(received.images, timings)
            repeatable = _only(digests) if not received.options and not no_cache else None
            if repeatable and not digest and (response := self.repeats.again(scope, repeatable, timings)):
                return response
            way = self.ways.read(scope, received.options, no_cache=no_cache)
            self.check(scope, way, images=len(received.images))
            embedded = await self._embedded(request, received.images, digests, way, timings)
        return self.written(scope, embedded, way, timings, repeatable)

    async def _embedded(
        self, request: Request, images: Sequence[Image], digests: Sequence[str] | None, way: Way, timings: Timings
    ) -> Embedded:
        if digests:
            if (embedded := self.intake.cached(way.request, digests, timings)) is not None:
                return embedded
            self.intake.embedder.require_room(len(digests))
        caller: Caller | None = request.scope.get("microtome.caller")
        with self._callers.waiting(request.receive):
            own = caller.images if caller else None
            return await self.intake.embed(way.request, images, timings, own=own, digests=digests)


def embed_router(endpoint: EmbedEndpoint) -> APIRouter:
    """Build the route."""
    router = APIRouter()
    router.add_api_route(
        PATH,
        endpoint.post,
        methods=["POST"],
        summary="Embed images",
        response_model=EmbedAnswer,
        responses=documentation.EMBED_RESPONSES,
        openapi_extra=documentation.EMBED_REQUEST,
    )
    return router


@lru_cache(64)
def _naming(model: str, version: int, fingerprint: str, source: str, media_type: str) -> RawHeaders:
    return raw(
        {
            "X-Model": in_header(model),
            "X-Model-Version": str(version),
            "X-Fingerprint": fingerprint,
            "X-Cache": source,
            "Vary": "Accept",
            "Content-Type": media_type,
        }
    )


def _only(digests: Sequence[str] | None) -> str | None:
    return digests[0] if digests is not None and len(digests) == 1 else None
