"""`POST /embed` without the framework; and what is kept as it was written without even a timer."""

from time import perf_counter

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send

from service.embedding.stopwatch import Timings
from service.errors import ServiceError
from service.http_api.arrived import Arrived
from service.http_api.body import is_json
from service.http_api.embed import EmbedEndpoint
from service.http_api.head import head
from service.http_api.problems import answer_to

_UNUSUAL = frozenset({b"content-encoding", b"transfer-encoding", b"cache-control", b"x-request-timeout", b"expect"})
"""Headers which say that there is more to do than to look an answer up."""


class Direct:
    """ASGI application of the endpoint alone, which answers as the framework would."""

    def __init__(self, endpoint: EmbedEndpoint, app: FastAPI, route: BaseRoute) -> None:
        """Answer for one of `app`'s routes, which request counts and traces are told."""
        self._endpoint = endpoint
        self._app = app
        self._route = route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        scope["app"] = self._app
        scope["route"] = self._route
        arrived = Arrived(receive) if self._may_repeat(scope) else None
        try:
            response = await (self._answer(scope, arrived) if arrived else self._endpoint.post(Request(scope, receive)))
        except ServiceError as error:
            response = answer_to(error, self._endpoint.metrics, scope)
        finally:
            if arrived:
                arrived.close()
        await response(scope, receive, send)

    async def _answer(self, scope: Scope, arrived: Arrived) -> Response:
        timings, digest = Timings(), None
        start = perf_counter()
        body = arrived.whole_body()
        timings.stage("read", perf_counter() - start)
        if body and not is_json(body, head(scope).get(b"content-type", b"").decode("latin-1")):
            # Nothing is waited for here, so nothing is held, and no clock has to run.
            digest = self._endpoint.digest(body, timings)
            if digest and (response := self._endpoint.repeats.again(scope, digest, timings)):
                self._endpoint.metrics.stage("read", timings.seconds["read"])
                return response
        return await self._endpoint.answer(Request(scope, arrived), timings, digest)

    def _may_repeat(self, scope: Scope) -> bool:
        headers = head(scope)
        length = headers.get(b"content-length")
        return (
            length is not None
            and int(length) <= self._endpoint.reader.limits.max_image_bytes
            and _UNUSUAL.isdisjoint(headers)
            and not headers.get(b"content-type", b"").lower().startswith(b"multipart/")
            and self._endpoint.repeats.possible(scope)
        )
