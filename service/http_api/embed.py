"""POST /embed: images in, vectors out."""

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from time import perf_counter

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.auth import Caller
from service.embedding.deadline import within
from service.embedding.intake import Intake
from service.embedding.request import Embedded, EmbedRequest
from service.embedding.stopwatch import Timings, both, timed
from service.embedding.urls import Image
from service.embedding.vectors import checked_dimensions
from service.http_api import access, documentation
from service.http_api.acceptable import Form, chosen
from service.http_api.answers import encoded, in_header
from service.http_api.body import BodyReader
from service.http_api.head import head
from service.http_api.options import EmbedOptions, Encoding, read_options
from service.http_api.raw import RawHeaders, RawResponse, raw
from service.http_api.repeats import Repeats, server_timing
from service.http_api.schemas import EmbedAnswer
from service.http_api.waiting import CallerGone, allowed, caller_waiting
from service.telemetry.metrics import Metrics

PATH = "/embed"

_CLIENT_CLOSED_REQUEST = 499
"""nginx's, for the metrics; nobody receives it."""


@dataclass(frozen=True, slots=True)
class EmbedEndpoint:
    """The route's collaborators."""

    intake: Intake
    reader: BodyReader
    metrics: Metrics
    repeats: Repeats

    async def post(self, request: Request) -> Response:
        """Turn images into vectors: one image as the body, several as file parts of a form, or JSON.

        Every vector of an answer comes from the same version of the same model, which the answer names. The answer's
        form is chosen by `Accept`; options may stand in the query string or in the JSON body.
        """
        return await self.answer(request, Timings())

    async def answer(self, request: Request, timings: Timings, digest: str | None = None) -> Response:
        """Answer a request, whose body is one image with this digest when that is known already.

        Raises:
            ServiceError: any leaf of the tree.
        """
        access.note(request.scope, stages=timings.seconds)
        try:
            async with within(allowed(request, self.intake.deadline)):
                return await self._answered(request, timings, digest)
        except CallerGone:
            return Response(status_code=_CLIENT_CLOSED_REQUEST)

    def digest(self, body: bytes, timings: Timings) -> str | None:
        """Hash a body that is one image; None when it is so large that this is worth a thread."""
        return _only(self.intake.digests([body], timings))

    async def _answered(self, request: Request, timings: Timings, digest: str | None) -> Response:
        scope = request.scope
        caller: Caller | None = scope.get("microtome.caller")
        own = (caller.bodies,) if caller and caller.bodies else ()
        query = request.query_params.multi_items() if scope["query_string"] else ()
        read_options(query, {})
        no_cache = b"no-cache" in head(scope).get(b"cache-control", b"").lower()
        start = perf_counter()
        async with self.reader.received(request, *own) as received:
            both(self.metrics.stage, timings.stage)("read", perf_counter() - start)
            digests = [digest] if digest else self.intake.digests(received.images, timings)
            repeatable = _only(digests) if not received.options and not no_cache else None
            if repeatable and not digest and (response := self.repeats.again(scope, repeatable, timings)):
                return response
            options = read_options(query, received.options, no_cache=no_cache)
            form, encoding = chosen(request.headers.get("accept", ""), options)
            embedded = await self._embedded(request, received.images, digests, options, encoding, timings)
        headers, answer = self._written(embedded, options, form, encoding, timings)
        if repeatable and options.version is None and all(e.cache == "hit" for e in embedded.embeddings):
            self.repeats.keep(scope, repeatable, embedded.card, headers, answer)
        status = HTTPStatus.MULTI_STATUS if embedded.errors else HTTPStatus.OK
        return RawResponse(status, [*headers, server_timing(timings)], answer)

    async def _embedded(  # noqa: PLR0913, PLR0917, one step of the way, with all that was found out before
        self,
        request: Request,
        images: Sequence[Image],
        digests: Sequence[str] | None,
        options: EmbedOptions,
        encoding: Encoding,
        timings: Timings,
    ) -> Embedded:
        asked = EmbedRequest(
            options.model or self.intake.default_model, options.version, options.output, options.cache, options.on_error
        )
        self.intake.check(asked, dimensions=options.dimensions, normalize=options.normalize, int8=encoding == "int8")
        access.note(request.scope, images=len(images), model=asked.model[:80])
        if digests and (embedded := self.intake.cached(asked, digests, timings)) is not None:
            return embedded
        if digests:
            self.intake.embedder.require_room(len(digests))
        caller: Caller | None = request.scope.get("microtome.caller")
        async with caller_waiting(request):
            return await self.intake.embed(
                asked, images, timings, own=caller.images if caller else None, digests=digests
            )

    def _written(
        self, embedded: Embedded, options: EmbedOptions, form: Form, encoding: Encoding, timings: Timings
    ) -> tuple[RawHeaders, bytes]:
        card = embedded.card
        # Once more, since the version that answered may not be the one that was looked at.
        checked_dimensions(options.dimensions, [card.outputs[e.output] for e in embedded.embeddings[:64]])
        with timed(both(self.metrics.stage, timings.stage), "encode"):
            answer = encoded(embedded, options, form, encoding)
        sources = {e.cache for e in embedded.embeddings}
        headers = {
            "X-Model": in_header(card.name),
            "X-Model-Version": str(card.version),
            "X-Fingerprint": card.manifest.fingerprint,
            "X-Cache": sources.pop() if len(sources) == 1 else "mixed",
            "Vary": "Accept",
            "Content-Type": form.media_type,
            "Content-Length": str(len(answer.body)),
            **answer.headers,
        }
        return raw(headers), answer.body


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


def _only(digests: Sequence[str] | None) -> str | None:
    return digests[0] if digests is not None and len(digests) == 1 else None
