"""POST /embed: images in, vectors out."""

from dataclasses import dataclass
from http import HTTPStatus
from time import perf_counter

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.auth import Caller
from service.embedding.intake import Intake
from service.embedding.ports import Observer
from service.embedding.request import Embedded, EmbedRequest
from service.embedding.stopwatch import Timings, both, timed
from service.embedding.vectors import checked_dimensions
from service.http_api import documentation
from service.http_api.acceptable import Form, chosen
from service.http_api.access import note
from service.http_api.answers import encoded, in_header
from service.http_api.body import BodyReader
from service.http_api.options import EmbedOptions, Encoding, read_options
from service.http_api.schemas import EmbedAnswer
from service.http_api.waiting import CallerGone, allowed, caller_waiting, within

_CLIENT_CLOSED_REQUEST = 499
"""nginx's, for the metrics; nobody receives it."""


@dataclass(frozen=True, slots=True)
class EmbedEndpoint:
    """The route's collaborators."""

    intake: Intake
    reader: BodyReader
    observer: Observer

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
        timings = Timings()
        caller: Caller | None = request.scope.get("microtome.caller")
        own = (caller.bodies,) if caller and caller.bodies else ()
        query = request.query_params.multi_items() if request.scope["query_string"] else ()
        read_options(query, {})
        start = perf_counter()
        async with self.reader.received(request, *own) as (images, fields):
            both(self.observer.stage, timings.stage)("read", perf_counter() - start)
            options = read_options(query, fields, no_cache=_says_no_cache(request))
            form, encoding = chosen(request.headers.get("accept", ""), options)
            asked = EmbedRequest(
                options.model or self.intake.default_model,
                options.version,
                options.output,
                options.cache,
                options.on_error,
            )
            self.intake.check(
                asked, dimensions=options.dimensions, normalize=options.normalize, int8=encoding == "int8"
            )
            note(request.scope, images=len(images), model=asked.model[:80])
            async with caller_waiting(request):
                embedded = await self.intake.embed(asked, images, timings, own=caller.images if caller else None)
        return self._response(embedded, options, form, encoding, timings)

    def _response(
        self, embedded: Embedded, options: EmbedOptions, form: Form, encoding: Encoding, timings: Timings
    ) -> Response:
        card = embedded.card
        # Once more, since the version that answered may not be the one that was looked at.
        checked_dimensions(options.dimensions, [card.outputs[e.output] for e in embedded.embeddings[:64]])
        with timed(both(self.observer.stage, timings.stage), "encode"):
            answer = encoded(embedded, options, form, encoding)
        sources = {e.cache for e in embedded.embeddings}
        headers = {
            "X-Model": in_header(card.name),
            "X-Model-Version": str(card.version),
            "X-Fingerprint": card.manifest.fingerprint,
            "X-Cache": sources.pop() if len(sources) == 1 else "mixed",
            "Server-Timing": ", ".join(f"{name};dur={1000 * s:.3f}" for name, s in timings.seconds.items()),
            "Vary": "Accept",
            **answer.headers,
        }
        status = HTTPStatus.MULTI_STATUS if embedded.errors else HTTPStatus.OK
        return Response(answer.body, status, headers, form.media_type)


def embed_router(endpoint: EmbedEndpoint) -> APIRouter:
    """Build the route."""
    router = APIRouter()
    router.add_api_route(
        "/embed",
        endpoint.post,
        methods=["POST"],
        summary="Embed images",
        response_model=EmbedAnswer,
        responses=documentation.EMBED_RESPONSES,
        openapi_extra=documentation.EMBED_REQUEST,
    )
    return router


def _says_no_cache(request: Request) -> bool:
    return "no-cache" in request.headers.get("cache-control", "").lower()
