"""POST /embed and POST /classify, each as one ASGI application, awaited from top to bottom.

Every other request goes on to FastAPI.

A request is parsed, its body is read, and the response cache is asked. Then its images are looked up, admitted,
computed and encoded. Texts are tokenised and looked up in the core.
"""

from collections.abc import Collection, Sequence
from contextlib import nullcontext
from time import perf_counter

from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from microtome.errors import ServiceError
from microtome.regions import Region
from service.auth import Caller, asked_by
from service.core.admission import HitRatio
from service.core.classes import require_classes
from service.core.intake import Intake
from service.core.lookup import Lookup
from service.core.requests import Embedded, EmbedRequest
from service.core.timeouts import within
from service.core.timings import Timings
from service.core.vectors import checked_dimensions
from service.http.bodies import BodyReader, Received
from service.http.disconnects import CLIENT_CLOSED_REQUEST, CallerGone, Disconnects
from service.http.middleware import Authentication, RequestLog, RequestRecord, caller_of, note, server_timing
from service.http.parameters import CLASSIFY_OPTIONS, OPTIONS, ParameterReader, Parameters, seconds_allowed
from service.http.problems import problem_response
from service.http.response_cache import ResponseCache
from service.http.responses import RawResponse, write
from service.telemetry.metrics import Metrics

PATH, CLASSIFY_PATH = "/embed", "/classify"

_MAX_LOOKUPS = 256
"""Images looked up at a time before admission; those of further requests are admitted first."""

_UNLIMITED = nullcontext()


class EmbedEndpoint:
    """ASGI application that answers POST /embed, and passes everything else on to FastAPI.

    Args:
        app: everything else; FastAPI's application also documents POST /embed.
        route: of POST /embed there, which names it in metrics and traces.
        intake: the way to the core.
        reader: reads bodies.
        responses: written responses.
        metrics: count errors and time stages.
        request_log: counts and logs requests.
        authentication: identifies callers; None serves all.
    """

    path = PATH
    options: Collection[str] = OPTIONS
    classes = False
    """Whether outputs of classes are answered with labels, and the others with vectors."""

    def __init__(  # noqa: PLR0913, collaborators
        self,
        app: ASGIApp,
        *,
        route: BaseRoute,
        intake: Intake,
        reader: BodyReader,
        responses: ResponseCache,
        metrics: Metrics,
        request_log: RequestLog,
        authentication: Authentication | None = None,
    ) -> None:
        self._app = app
        self._route = route
        self._intake = intake
        self._reader = reader
        self._responses = responses
        self._metrics = metrics
        self._request_log = request_log
        self._authentication = authentication
        self._parameters = ParameterReader(intake.default_model, classes=self.classes)
        self._disconnects = Disconnects()
        self._hit_ratio = HitRatio()
        self._lookups = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"] != self.path or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        record = RequestRecord(scope)
        try:
            response = await self._response(scope, receive, record)
            record.status = response.status_code
            # A new list of headers: the original may belong to a cached response.
            headers = [*response.raw_headers, record.id_header]
            await send({"type": "http.response.start", "status": record.status, "headers": headers})
            await send({"type": "http.response.body", "body": response.body})
        finally:
            self._request_log.ended(scope, record)

    async def _response(self, scope: Scope, receive: Receive, record: RequestRecord) -> RawResponse | Response:
        try:
            if self._authentication:
                self._authentication.identify(scope)
            scope["route"] = self._route
            return await self._answered(scope, receive)
        except ServiceError as error:
            return problem_response(error, self._metrics, scope)
        except CallerGone:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        except Exception:  # noqa: BLE001, logged there
            return self._request_log.unexpected(scope, record)

    async def _answered(self, scope: Scope, receive: Receive) -> RawResponse:
        if not self._hit_ratio.lookup_pays():
            asked = self._parameters.read(scope).request
            self._intake.embedder.require_turn(asked.model, before=self._lookups, bulk=asked.bulk)
        timings = Timings(self._metrics.stage)
        note(scope, stages=timings.seconds)
        seconds = seconds_allowed(scope, self._intake.deadline)
        parameters = self._parameters.read(scope)
        size, caller = self._reader.size(scope), caller_of(scope)
        rate = caller.rate if caller else None
        if rate:
            rate.require()
        with self._reader.budget.hold(size), caller.bodies.hold(size) if caller and caller.bodies else _UNLIMITED:
            start = perf_counter()
            received = await self._reader.images(scope, receive, seconds, self.options)
            timings.stage("read", perf_counter() - start)
            if received.options:
                parameters = self._parameters.read(scope, received.options)
            if parameters.options.crop or received.crops:
                received = received.cut(parameters.options.crop, self._reader.limits.max_images)
            request = asked_by(caller, parameters.request) if caller else parameters.request
            if rate:
                await rate.take(len(received.images) + self._intake.zero_shot.texts(request))
            digests = self._intake.digests(received.images, timings, request.tenant, received.regions)
            kept = not (received.options or parameters.no_cache or request.candidates)
            cacheable = _only(digests) if kept else None
            if cacheable and (cached := self._responses.find(scope, cacheable, timings)):
                self._hit_ratio.count(hit=True)
                return cached
            self._check(scope, parameters, len(received.images))
            # Not before, since a timer is a twentieth of what an answer of the response cache costs.
            async with within(seconds - (perf_counter() - start), of=seconds):
                embedded = await self._embedded(request, received, digests, timings, caller, receive)
                return self._written(scope, embedded, parameters, timings, cacheable, received.regions)

    def _check(self, scope: Scope, parameters: Parameters, images: int) -> None:
        """Refuse what the model's outputs do not have."""
        request, options = parameters.request, parameters.options
        int8 = parameters.encoding == "int8"
        self._intake.check(
            request, dimensions=options.dimensions, normalize=options.normalize, int8=int8, heat=options.heat
        )
        if self.classes and request.candidates is None:
            require_classes(self._intake.models.card(request.model), request.outputs)
        note(scope, images=images, model=request.model[:80])

    async def _embedded(  # noqa: PLR0913, PLR0917, what the steps before have found out
        self,
        request: EmbedRequest,
        received: Received,
        digests: Sequence[str] | None,
        timings: Timings,
        caller: Caller | None,
        receive: Receive,
    ) -> Embedded:
        """Look the images up; admit and compute what the cache lacks."""
        embedder, lookup = self._intake.embedder, None
        if digests and request.candidates is None:
            lookup = await self._looked_up(request, digests, timings)
            if lookup is not None and lookup.complete:
                return embedder.answered(lookup)
            embedder.require_room(len(digests), lookup, bulk=request.bulk)
        with self._disconnects.watched(receive):
            own = caller.images if caller else None
            return await self._intake.embed(
                request,
                received.images,
                timings,
                own=own,
                digests=digests,
                lookup=lookup,
                regions=received.regions,
            )

    async def _looked_up(self, request: EmbedRequest, digests: Sequence[str], timings: Timings) -> Lookup | None:
        """Look images up in all tiers of the cache.

        Returns:
            None if the request does not want cached vectors, or if too many images are being looked up.
        """
        embedder, start = self._intake.embedder, perf_counter()
        lookup = embedder.looked(request, digests)
        if lookup is None:
            return None
        if not lookup.complete:
            if self._lookups + len(digests) > _MAX_LOOKUPS:
                return None
            self._lookups += len(digests)
            try:
                await embedder.look_further(lookup)
            finally:
                self._lookups -= len(digests)
        timings.stage("cache", perf_counter() - start)
        self._hit_ratio.count(hit=lookup.complete or embedder.joins(lookup))
        return lookup

    def _written(  # noqa: PLR0913, PLR0917, what the steps before have found out
        self,
        scope: Scope,
        embedded: Embedded,
        parameters: Parameters,
        timings: Timings,
        cacheable: str | None,
        regions: Sequence[Region],
    ) -> RawResponse:
        if parameters.options.dimensions is not None:
            # Again, since another version may have come into use since the first check; and texts have their own tower.
            outputs = {id(output): output for output in map(embedded.output, embedded.embeddings)}
            checked_dimensions(parameters.options.dimensions, list(outputs.values()))
        response, cached = write(embedded, parameters, timings, classes=self.classes, regions=regions)
        if cacheable and cached and parameters.request.version is None:
            self._responses.keep(scope, cacheable, parameters.request.model, embedded.card, response)
        return response._replace(raw_headers=[*response.raw_headers, server_timing(timings)])


class ClassifyEndpoint(EmbedEndpoint):
    """As `EmbedEndpoint`, for POST /classify: the same bodies, limits and caches."""

    path = CLASSIFY_PATH
    options = CLASSIFY_OPTIONS
    classes = True


def _only(digests: Sequence[str] | None) -> str | None:
    return digests[0] if digests is not None and len(digests) == 1 else None
