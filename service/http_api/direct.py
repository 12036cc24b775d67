"""`POST /embed` without the framework; and what the cache has without all that only computing needs.

One image, whose body has come with its head and which is asked for in a plain way, is looked up before any timer of the
request runs, and takes no place among the images in flight. What the cache has is answered so under any load. The rest
goes on as every request does, and its look into the cache goes with it.
"""

from contextlib import nullcontext
from time import perf_counter

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send

from service.auth import Caller
from service.embedding.lookup import Lookup
from service.embedding.stopwatch import Timings, both
from service.errors import ServiceError
from service.http_api import access
from service.http_api.arrived import Arrived
from service.http_api.body import is_json
from service.http_api.embed import EmbedEndpoint
from service.http_api.head import head
from service.http_api.problems import answer_to
from service.http_api.ways import Way

_UNUSUAL = frozenset({b"content-encoding", b"transfer-encoding", b"cache-control", b"x-request-timeout", b"expect"})
"""Headers which say that there is more to do than to look an answer up."""

_MOST_LOOKS = 256
"""Looks that are waited for at a time. Further requests go the way on which each takes a place in flight."""

_NOTHING = nullcontext()


class Direct:
    """ASGI application of the endpoint alone, which answers as the framework would."""

    def __init__(self, endpoint: EmbedEndpoint, app: FastAPI, route: BaseRoute) -> None:
        """Answer for one of `app`'s routes, which request counts and traces are told."""
        self._endpoint = endpoint
        self._app = app
        self._route = route
        self._looks = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        scope["app"] = self._app
        scope["route"] = self._route
        way = self._endpoint.ways.plain(scope) if self._may_be_one_image(scope) else None
        arrived = Arrived(receive) if way else None
        try:
            response = await (
                self._answer(scope, arrived, way) if arrived and way else self._endpoint.post(Request(scope, receive))
            )
        except ServiceError as error:
            response = answer_to(error, self._endpoint.metrics, scope)
        finally:
            if arrived:
                arrived.close()
        await response(scope, receive, send)

    async def _answer(self, scope: Scope, arrived: Arrived, way: Way) -> Response:
        endpoint, timings, digest, lookup = self._endpoint, Timings(), None, None
        access.note(scope, stages=timings.seconds)
        start = perf_counter()
        body = arrived.whole_body()
        read = perf_counter() - start
        if body and not is_json(body, head(scope).get(b"content-type", b"").decode("latin-1")):
            digest = endpoint.digest(body, timings)
        if body and digest:
            both(endpoint.metrics.stage, timings.stage)("read", read)
            response = endpoint.repeats.again(scope, digest, timings)
            if response is None:
                endpoint.check(scope, way, images=1)
                lookup = await self._looked(scope, way, digest, timings, len(body))
                if lookup and lookup.complete:
                    embedded = endpoint.intake.embedder.answered(lookup)
                    response = endpoint.written(scope, embedded, way, timings, digest)
            if response:
                return response
            if lookup:
                endpoint.intake.embedder.require_room(1, lookup)
                return await endpoint.computed(scope, arrived, way, body, digest, lookup, timings)
        return await endpoint.answer(Request(scope, arrived), timings, digest)

    async def _looked(self, scope: Scope, way: Way, digest: str, timings: Timings, held: int) -> Lookup | None:
        """Ask the cache. While it has to be waited for the body's bytes are held; None if too many wait already."""
        endpoint, start = self._endpoint, perf_counter()
        lookup = endpoint.intake.embedder.looked(way.request, [digest])
        if lookup and not lookup.complete:
            if self._looks >= _MOST_LOOKS:
                return None
            caller: Caller | None = scope.get("microtome.caller")
            own = caller.bodies.hold(held) if caller and caller.bodies else _NOTHING
            self._looks += 1
            try:
                with endpoint.reader.budget.hold(held), own:
                    await endpoint.intake.embedder.look_further(lookup)
            finally:
                self._looks -= 1
        both(endpoint.metrics.stage, timings.stage)("cache", perf_counter() - start)
        return lookup

    def _may_be_one_image(self, scope: Scope) -> bool:
        headers = head(scope)
        length = headers.get(b"content-length")
        return (
            length is not None
            and int(length) <= self._endpoint.reader.limits.max_image_bytes
            and _UNUSUAL.isdisjoint(headers)
            and not headers.get(b"content-type", b"").lower().startswith(b"multipart/")
        )
