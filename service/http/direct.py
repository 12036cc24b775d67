"""`POST /embed` without the framework; and what the cache has without all that only computing needs.

One image, whose body has come with its head and which is asked for in a plain way, is looked up before any timer of the
request runs, and takes no place among the images in flight. What the cache has is answered so under any load. The rest
goes on as every request does, and its look into the cache goes with it.
"""

from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import NamedTuple

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import Message, Receive, Scope, Send

from service.core.lookup import Lookup
from service.core.timings import Timings
from service.errors import ServiceError
from service.http import access
from service.http.arrived import Arrived
from service.http.bodies import is_json
from service.http.embed import EmbedEndpoint
from service.http.head import head
from service.http.looks import Looks
from service.http.observation import observation
from service.http.problems import answer_to
from service.http.prospects import Prospects
from service.http.raw import WRITE, RawResponse, Write, whole
from service.http.ways import Way

_UNUSUAL = frozenset({b"content-encoding", b"transfer-encoding", b"cache-control", b"x-request-timeout", b"expect"})
"""Headers which say that there is more to do than to look an answer up."""

_BEGUN = "microtome.begun"


class _Begun(NamedTuple):
    """One image that has come whole, and what was found out about it without waiting for anybody.

    Attributes:
        digest: None where the body is no single image, or one so large that hashing it is worth a thread.
        lookup: what the cache has, as far as it has been asked; None where nobody has looked.
        asked: whether all of it has been, and there is room to compute what it lacks.
    """

    way: Way
    body: bytes
    timings: Timings
    digest: str | None
    lookup: Lookup | None
    asked: bool = False


class Direct:
    """ASGI application of the endpoint alone, which answers as the framework would."""

    def __init__(self, endpoint: EmbedEndpoint, app: FastAPI, route: BaseRoute) -> None:
        """Answer for one of `app`'s routes, which request counts and traces are told."""
        self._endpoint = endpoint
        self._app = app
        self._route = route
        self._looks = Looks(endpoint.intake.embedder, endpoint.reader.budget)
        self._prospects = Prospects()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        # What is the request's own does not stay in its scope, which the server keeps: not the body, and no circle of
        # connection and scope, which only the collector would find.
        begun: _Begun | None = scope.pop(_BEGUN, None)
        write: Write | None = scope.pop(WRITE, None)
        arrived = None
        try:
            if begun is not None:
                receive = _Given(begun.body, receive)
                response = await self._go_on(scope, receive, begun)
            else:
                self._name(scope)
                if (way := self._plain(scope)) is None:
                    response = await self._endpoint.post(Request(scope, receive))
                else:
                    receive = arrived = Arrived(receive)
                    response = await self._answer(scope, arrived, way)
        except ServiceError as error:
            response = answer_to(error, self._endpoint.metrics, scope)
        finally:
            if arrived:
                arrived.close()
        if write is None or not self.put(scope, response, write):
            await response(scope, receive, send)

    @staticmethod
    def put(scope: Scope, response: Response, write: Write) -> bool:
        """Write an answer in one piece, if its connection takes it."""
        request = observation(scope)
        if not write(*whole(response, request.id_header)):
            return False
        request.status = response.status_code
        return True

    def at_once(self, scope: Scope, body: bytes) -> Response | None:
        """Answer a request whose body has come whole if nobody has to be waited for: from memory, or by refusing it.

        Returns None for all others. What has been found out about them is in the scope then, where `__call__` finds it.

        Raises:
            ServiceError: as the answer to the request.
        """
        self._name(scope)
        way = self._plain(scope) if body else None
        if way is None:
            return None
        response, begun = self._begin(scope, body, way, Timings(self._endpoint.metrics.stage), 0.0)
        if response is None:
            scope[_BEGUN] = begun
        return response

    def soon(self, scope: Scope, then: Callable[[Response | None], None]) -> bool:
        """Have the whole cache asked for what `at_once` has not found, and tell `then` the answer to the request.

        `then` is told None if the request has to go on in `__call__`. Returns False if that is known now, and tells
        nobody.

        Raises:
            Overloaded: there is no room for the body.
        """
        begun: _Begun | None = scope.get(_BEGUN)
        if begun is None or begun.lookup is None:
            return False
        caller = scope.get("microtome.caller")
        return self._looks.soon(begun.lookup, len(begun.body), caller, partial(self._told, scope, begun, then))

    def answered(self, scope: Scope) -> None:
        """Forget what the scope has of a request that has been answered: its connection keeps it."""
        scope.pop(_BEGUN, None)

    def has_body_of(self, scope: Scope) -> bool:
        """Whether `at_once` has left a body in the scope, which nobody needs to receive."""
        return _BEGUN in scope

    def _name(self, scope: Scope) -> None:
        scope["app"] = self._app
        scope["route"] = self._route

    async def _answer(self, scope: Scope, arrived: Arrived, way: Way) -> Response:
        timings = Timings(self._endpoint.metrics.stage)
        start = perf_counter()
        body = arrived.whole_body()
        if not body:
            return await self._endpoint.answer(Request(scope, arrived), timings)
        response, begun = self._begin(scope, body, way, timings, perf_counter() - start)
        return response or await self._go_on(scope, arrived, begun)

    def _begin(
        self, scope: Scope, body: bytes, way: Way, timings: Timings, read: float
    ) -> tuple[Response | None, _Begun]:
        """Do all that can be done without waiting; the response is None where that is not all."""
        endpoint, prospects, response, lookup = self._endpoint, self._prospects, None, None
        access.note(scope, stages=timings.seconds)
        if is_json(body, head(scope).get(b"content-type", b"").decode("latin-1")):
            return None, _Begun(way, body, timings, None, None)
        digest = endpoint.digest(body, timings)
        if digest:
            timings.stage("read", read)
            response = endpoint.repeats.again(scope, digest, timings)
            if response is None:
                endpoint.check(scope, way, images=1)
                start = perf_counter()
                lookup = endpoint.intake.embedder.looked(way.request, [digest])
                if lookup and lookup.complete:
                    timings.stage("cache", perf_counter() - start)
                    response = self._written(scope, lookup, way, timings, digest)
            if response is not None:
                prospects.looked(found=True)
        return response, _Begun(way, body, timings, digest, lookup)

    def _told(
        self, scope: Scope, begun: _Begun, then: Callable[[Response | None], None], seconds: float | None
    ) -> None:
        response: Response | None = None
        if seconds is not None:
            try:
                response = self._found(scope, begun, seconds)
                if response is None:
                    scope[_BEGUN] = begun._replace(asked=True)
            except ServiceError as error:
                response = answer_to(error, self._endpoint.metrics, scope)
            except Exception:  # noqa: BLE001, S110, it will be met again in `__call__`, around which it is logged
                pass
        then(response)

    async def _go_on(self, scope: Scope, receive: Receive, begun: _Begun) -> Response:
        endpoint, (way, body, timings, digest, lookup, asked) = self._endpoint, begun
        if digest is None or lookup is None:
            return await endpoint.answer(Request(scope, receive), timings, digest)
        if not asked:
            seconds = await self._looks.wait(lookup, len(body), scope.get("microtome.caller"))
            if seconds is None:
                return await endpoint.answer(Request(scope, receive), timings, digest)
            if (response := self._found(scope, begun, seconds)) is not None:
                return response
        return await endpoint.computed(scope, receive, way, body, digest, lookup, timings)

    def _found(self, scope: Scope, begun: _Begun, seconds: float) -> RawResponse | None:
        """Answer from the whole cache, which has been asked; None for what has to be computed, if there is room.

        Raises:
            Overloaded: there is none.
        """
        way, _, timings, digest, lookup, _ = begun
        assert digest is not None  # noqa: S101, for mypy: who looks has both
        assert lookup is not None  # noqa: S101, as above
        timings.stage("cache", seconds)
        embedder, complete = self._endpoint.intake.embedder, lookup.complete
        self._prospects.looked(found=complete or embedder.joins(lookup))
        if complete:
            return self._written(scope, lookup, way, timings, digest)
        embedder.require_room(1, lookup)
        return None

    def _written(self, scope: Scope, lookup: Lookup, way: Way, timings: Timings, digest: str) -> RawResponse:
        embedded = self._endpoint.intake.embedder.answered(lookup)
        return self._endpoint.written(scope, embedded, way, timings, digest)

    def _plain(self, scope: Scope) -> Way | None:
        """Return the way of a request that may be one image, asked for in a plain way.

        Raises:
            Overloaded: there is no room for it, and little hope that the cache has its vector.
        """
        headers = head(scope)
        length = headers.get(b"content-length")
        may_be_one_image = (
            length is not None
            and int(length) <= self._endpoint.reader.limits.max_image_bytes
            and _UNUSUAL.isdisjoint(headers)
            and not headers.get(b"content-type", b"").lower().startswith(b"multipart/")
        )
        if not may_be_one_image:
            return None
        if not self._prospects.worth_a_look():
            self._endpoint.intake.embedder.require_turn(before=self._looks.waiting)
        return self._endpoint.ways.plain(scope)


class _Given:
    """A `receive` whose first message is a body that is here already."""

    __slots__ = ("_body", "_receive")

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        body, self._body = self._body, None
        if body is None:
            return await self._receive()
        return {"type": "http.request", "body": body, "more_body": False}
