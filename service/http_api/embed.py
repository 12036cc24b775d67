"""POST /embed: images in, vectors out."""

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from time import perf_counter

from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.types import Scope

from service.auth import Caller
from service.embedding.intake import Intake
from service.embedding.request import Embedded, EmbedRequest
from service.embedding.stopwatch import Timings, both, timed
from service.embedding.urls import Image
from service.embedding.vectors import checked_dimensions
from service.http_api import access, documentation
from service.http_api.acceptable import Form, chosen
from service.http_api.answers import encoded, in_header
from service.http_api.body import BodyReader, Received
from service.http_api.finished import Answered, Asked, FinishedAnswers
from service.http_api.head import head
from service.http_api.options import EmbedOptions, Encoding, read_options
from service.http_api.raw import RawHeaders, RawResponse, raw
from service.http_api.schemas import EmbedAnswer
from service.http_api.waiting import CallerGone, allowed, caller_waiting, within
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
    finished: FinishedAnswers

    async def post(self, request: Request) -> Response:
        """Turn images into vectors: one image as the body, several as file parts of a form, or JSON.

        Every vector of an answer comes from the same version of the same model, which the answer names. The answer's
        form is chosen by `Accept`; options may stand in the query string or in the JSON body.
        """
        try:
            async with within(allowed(request, self.intake.deadline)):
                return await self._answered(request)
        except CallerGone:
            return Response(status_code=_CLIENT_CLOSED_REQUEST)

    async def _answered(self, request: Request) -> Response:
        timings, scope = Timings(), request.scope
        access.note(scope, stages=timings.seconds)
        caller: Caller | None = scope.get("microtome.caller")
        own = (caller.bodies,) if caller and caller.bodies else ()
        query = request.query_params.multi_items() if scope["query_string"] else ()
        read_options(query, {})
        no_cache = b"no-cache" in head(scope).get(b"cache-control", b"").lower()
        start = perf_counter()
        async with self.reader.received(request, *own) as received:
            both(self.metrics.stage, timings.stage)("read", perf_counter() - start)
            digests = self.intake.digests(received.images, timings)
            asked = None if no_cache else _asked(scope, received, digests)
            if asked is not None and (kept := self._kept(asked, timings)) is not None:
                access.note(scope, images=1, model=kept.card.name)
                return RawResponse(HTTPStatus.OK, [*kept.headers, _server_timing(timings)], kept.body)
            options = read_options(query, received.options, no_cache=no_cache)
            form, encoding = chosen(request.headers.get("accept", ""), options)
            embedded = await self._embedded(request, received.images, digests, options, encoding, timings)
        return self._written(embedded, options, form, encoding, timings, asked)

    def _kept(self, asked: Asked, timings: Timings) -> Answered | None:
        """Find an answer that was written before, unless another version has come into use since."""
        with timed(timings.stage, "cache"):
            kept = self.finished.get(asked)
            if kept is None:
                return None
            if self.intake.models.card(kept.card.name) is not kept.card:
                self.finished.drop(asked)
                return None
        self.metrics.answered_again(kept.card.name, timings.seconds["cache"])
        return kept

    async def _embedded(  # noqa: PLR0913, one step of the way, with all that was found out before
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
        caller: Caller | None = request.scope.get("microtome.caller")
        async with caller_waiting(request):
            return await self.intake.embed(
                asked, images, timings, own=caller.images if caller else None, digests=digests
            )

    def _written(  # noqa: PLR0913, likewise
        self,
        embedded: Embedded,
        options: EmbedOptions,
        form: Form,
        encoding: Encoding,
        timings: Timings,
        asked: Asked | None,
    ) -> Response:
        card = embedded.card
        # Once more, since the version that answered may not be the one that was looked at.
        checked_dimensions(options.dimensions, [card.outputs[e.output] for e in embedded.embeddings[:64]])
        with timed(both(self.metrics.stage, timings.stage), "encode"):
            answer = encoded(embedded, options, form, encoding)
        sources = {e.cache for e in embedded.embeddings}
        headers = raw(
            {
                "x-model": in_header(card.name),
                "x-model-version": str(card.version),
                "x-fingerprint": card.manifest.fingerprint,
                "x-cache": sources.pop() if len(sources) == 1 else "mixed",
                "vary": "Accept",
                "content-type": form.media_type,
                "content-length": str(len(answer.body)),
                **answer.headers,
            }
        )
        if asked is not None and options.version is None and all(e.cache == "hit" for e in embedded.embeddings):
            self.finished.keep(asked, Answered(card, headers, answer.body))
        status = HTTPStatus.MULTI_STATUS if embedded.errors else HTTPStatus.OK
        return RawResponse(status, [*headers, _server_timing(timings)], answer.body)


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


def _asked(scope: Scope, received: Received, digests: Sequence[str] | None) -> Asked | None:
    """Say what the answer depends on, when that is one image and the head, whichever form the image came in."""
    if digests is None or len(digests) != 1 or received.options:
        return None
    return Asked(digests[0], scope["query_string"], head(scope).get(b"accept", b""))


def _server_timing(timings: Timings) -> tuple[bytes, bytes]:
    stages = ", ".join([f"{name};dur={1000 * seconds:.3f}" for name, seconds in timings.seconds.items()])
    return b"server-timing", stages.encode("latin-1")
