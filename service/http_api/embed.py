"""POST /embed: images in, vectors out."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from http import HTTPStatus
from time import perf_counter

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.auth import Caller
from service.embedding.embedder import Embedder
from service.embedding.ports import ModelServer, Observer
from service.embedding.request import Embedded, EmbedRequest, ImageError
from service.embedding.stopwatch import Timings, both, timed
from service.embedding.vectors import checked_dimensions, require_quantization
from service.errors import BadRequest, NoImageEmbedded, RequestRejected, ServiceError, restated
from service.http_api import documentation
from service.http_api.acceptable import Form, chosen
from service.http_api.access import note
from service.http_api.answers import encoded, in_header
from service.http_api.body import BodyReader
from service.http_api.json_images import Url
from service.http_api.options import EmbedOptions, Encoding, read_options
from service.http_api.schemas import EmbedAnswer
from service.http_api.urls import Fetch
from service.http_api.waiting import CallerGone, allowed, caller_waiting, within

_CLIENT_CLOSED_REQUEST = 499
"""nginx's, for the metrics; nobody receives it."""

Image = bytes | Url | RequestRejected


@dataclass(frozen=True, slots=True)
class EmbedEndpoint:
    """The route's collaborators.

    Attributes:
        default_model: who answers when the request names no model.
        deadline: the most seconds from the request's head to the answer.
        fetch: how images at addresses are had.
    """

    embedder: Embedder
    models: ModelServer
    reader: BodyReader
    fetch: Fetch
    observer: Observer
    default_model: str
    deadline: float

    async def post(self, request: Request) -> Response:
        """Turn images into vectors: one image as the body, several as file parts of a form, or JSON.

        Every vector of an answer comes from the same version of the same model, which the answer names. The answer's
        form is chosen by `Accept`; options may stand in the query string or in the JSON body.
        """
        try:
            async with within(allowed(request, self.deadline)):
                return await self._answered(request)
        except CallerGone:
            return Response(status_code=_CLIENT_CLOSED_REQUEST)

    async def _answered(self, request: Request) -> Response:
        timings = Timings()
        stages = both(self.observer.stage, timings.stage)
        caller: Caller | None = request.scope.get("microtome.caller")
        own = (caller.bodies,) if caller and caller.bodies else ()
        query = request.query_params.multi_items() if request.scope["query_string"] else ()
        read_options(query, {})
        start = perf_counter()
        async with self.reader.received(request, *own) as (images, fields):
            stages("read", perf_counter() - start)
            options = read_options(query, fields, no_cache=_says_no_cache(request))
            form, encoding = chosen(request.headers.get("accept", ""), options)
            self._check(options, encoding)
            note(request.scope, images=len(images), model=(options.model or self.default_model)[:80])
            with ExitStack() as held:
                if caller and caller.images:
                    held.enter_context(caller.images.hold(len(images)))
                if any(isinstance(image, Url) for image in images):
                    held.enter_context(self.reader.budget.hold(self.reader.limits.max_body_bytes))
                async with caller_waiting(request):
                    embedded = await self._embedded(options, images, timings)
        return self._response(embedded, options, form, encoding, timings)

    def _check(self, options: EmbedOptions, encoding: Encoding) -> None:
        """Refuse, before any work, what the model's outputs do not have."""
        if encoding == "int8" and options.normalize:
            raise BadRequest(
                "Expected int8 without `normalize`: its ranges are those of vectors as the model makes them."
            )
        if options.dimensions is None and encoding != "int8":
            return
        card = self.models.card(options.model or self.default_model)
        names = options.output if options.output and options.output != ("all",) else tuple(card.outputs)
        names = names if options.output else (card.manifest.default_output,)
        outputs = [card.outputs[name] for name in names if name in card.outputs]
        checked_dimensions(options.dimensions, outputs)
        if encoding == "int8":
            require_quantization(outputs)

    async def _embedded(self, options: EmbedOptions, images: Sequence[Image], timings: Timings) -> Embedded:
        """Embed those images that have arrived whole, and put the others' errors beside them."""
        request = EmbedRequest(
            options.model or self.default_model, options.version, options.output, options.cache, options.on_error
        )
        arrived: Sequence[bytes | ServiceError] = images  # type: ignore[assignment]  # addresses are replaced below
        if any(isinstance(image, Url) for image in images):
            with timed(both(self.observer.stage, timings.stage), "fetch"):
                arrived = await self.fetch(images)
        bad = {index: image for index, image in enumerate(arrived) if isinstance(image, ServiceError)}
        if bad and options.on_error == "fail":
            index, error = next(iter(bad.items()))
            raise restated(error, f"Image {index}: {error}")
        good = {index: image for index, image in enumerate(arrived) if isinstance(image, bytes)}
        if not good:
            raise NoImageEmbedded({index: restated(e, f"Image {index}: {e}") for index, e in bad.items()})
        embedded = await self.embedder.embed(request, list(good.values()), timings)
        merged = _merged(embedded, list(good), bad) if bad else embedded
        if not merged.embeddings:
            raise NoImageEmbedded({e.index: e.error for e in merged.errors})
        return merged

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


def _merged(embedded: Embedded, indexes: Sequence[int], bad: Mapping[int, ServiceError]) -> Embedded:
    """Give images their places in the request back, where others of it never reached the core."""
    errors = [ImageError(index, restated(error, f"Image {index}: {error}")) for index, error in bad.items()]
    for one in embedded.errors:
        index = indexes[one.index]
        words = str(one.error).removeprefix(f"Image {one.index}: ")
        errors.append(ImageError(index, restated(one.error, f"Image {index}: {words}")))
    embeddings = [replace(e, index=indexes[e.index]) for e in embedded.embeddings]
    return Embedded(embedded.card, embeddings, sorted(errors, key=lambda e: e.index))


def _says_no_cache(request: Request) -> bool:
    return "no-cache" in request.headers.get("cache-control", "").lower()
