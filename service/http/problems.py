"""Errors as responses: problem details (RFC 9457) with a stable `type` for each leaf of the error tree.

Under the paths of other systems' contracts the contract writes the error instead.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from http import HTTPStatus

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from microtome import errors
from microtome.errors import (
    BodyTooSlow,
    MicrotomeError,
    NoImageEmbedded,
    ServiceError,
    TemporarilyUnable,
    Unauthenticated,
    slug,
)
from service.telemetry.metrics import Metrics

MEDIA_TYPE = "application/problem+json"

STATUS: Mapping[type[MicrotomeError], HTTPStatus] = {
    errors.BadRequest: HTTPStatus.BAD_REQUEST,
    errors.UnsupportedModality: HTTPStatus.BAD_REQUEST,
    errors.Unauthenticated: HTTPStatus.UNAUTHORIZED,
    errors.NotAcceptable: HTTPStatus.NOT_ACCEPTABLE,
    errors.BodyTooSlow: HTTPStatus.REQUEST_TIMEOUT,
    errors.UrlNotAllowed: HTTPStatus.FORBIDDEN,
    errors.UrlNotFetched: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.NotAnImage: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.BrokenImage: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.ImageTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.TooManyImages: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.NoImageEmbedded: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.UnknownModel: HTTPStatus.NOT_FOUND,
    errors.UnknownVersion: HTTPStatus.NOT_FOUND,
    errors.UnknownOutput: HTTPStatus.NOT_FOUND,
    errors.Overloaded: HTTPStatus.TOO_MANY_REQUESTS,
    errors.ModelServerDown: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.ModelNotReady: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.DeadlineExceeded: HTTPStatus.GATEWAY_TIMEOUT,
    errors.ModelServerFault: HTTPStatus.BAD_GATEWAY,
}
"""The HTTP status of each error. Total over the leaves of the error tree; a test checks it."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request failed, before it is written in the form of one contract.

    Attributes:
        status: the status of problem details, as in `STATUS`.
        kind: the error's name, such as `model-server-down`; `not-found` from routing; `internal-error` for unexpected
            exceptions.
        detail: for the caller: what was expected, what was received, what to do.
        headers: of the response, such as Retry-After.
        error: the error of the tree; None for routing and unexpected exceptions.
        members: further members of the problem details.
    """

    status: HTTPStatus
    kind: str
    detail: str
    headers: Mapping[str, str] = field(default_factory=dict)
    error: ServiceError | None = None
    members: Mapping[str, object] = field(default_factory=dict)


ErrorWriter = Callable[[Failure], Response]
"""Writes a failure as the response of one contract."""


class ErrorWriters:
    """The error writer of each path.

    Args:
        table: paths with their writers. A path that ends with a slash covers all paths below it; the longest match
            wins.
    """

    def __init__(self, table: Iterable[tuple[str, ErrorWriter]] = ()) -> None:
        self._by_path = dict(table)
        self._prefixes = [path for path in self._by_path if path.endswith("/")]

    def at(self, path: str) -> ErrorWriter:
        """Return the writer for a path; by default that of problem details."""
        if path in self._by_path:
            return self._by_path[path]
        prefixes = [known for known in self._prefixes if path.startswith(known)]
        return self._by_path[max(prefixes, key=len)] if prefixes else problem

    def install(self, app: Starlette) -> None:
        """Write the errors of an application, those of its middleware included."""
        app.state.error_writers = self


def _written(failure: Failure, scope: Scope) -> Response:
    state = getattr(scope.get("app"), "state", None)
    writers: ErrorWriters | None = getattr(state, "error_writers", None)
    return (writers.at(scope["path"]) if writers else problem)(failure)


def problem(failure: Failure) -> Response:
    """Write a failure as problem details; every `type` is ours, `about:blank` is never used."""
    body = {
        "type": f"urn:microtome:problem:{failure.kind}",
        "title": _title(failure.kind),
        "status": failure.status.value,
        "detail": failure.detail,
        **failure.members,
    }
    return Response(orjson.dumps(body), failure.status.value, failure.headers, MEDIA_TYPE)


def image_problem(index: int, error: MicrotomeError) -> dict[str, object]:
    """Describe the error of one image of a request as a problem of its own."""
    kind = slug(type(error))
    return {
        "index": index,
        "type": f"urn:microtome:problem:{kind}",
        "title": _title(kind),
        "status": STATUS[type(error)].value,
        "detail": str(error),
    }


@cache
def _title(kind: str) -> str:
    return kind.replace("-", " ").capitalize()


def unexpected_response(request_id: str, scope: Scope) -> Response:
    """Build the response to an unexpected exception: the request's id, and no internals."""
    failure = Failure(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "internal-error",
        "Something went wrong here. The log has the cause under this request's id.",
        members={"request_id": request_id},
    )
    return _written(failure, scope)


def problem_response(error: ServiceError, metrics: Metrics, scope: Scope) -> Response:
    """Build the response to an error of the tree, and count the error."""
    metrics.failed(error)
    headers: dict[str, str] = {}
    members: dict[str, object] = {}
    match error:
        case TemporarilyUnable():
            headers = {"Retry-After": str(error.announced_seconds)}
        case Unauthenticated():
            headers = {"WWW-Authenticate": "Bearer"}
        case BodyTooSlow():
            # The rest of the body may still arrive, and is not read.
            headers = {"Connection": "close"}
        case NoImageEmbedded():
            members = {"errors": [image_problem(index, one) for index, one in error.failures.items()]}
    return _written(Failure(STATUS[type(error)], slug(type(error)), str(error), headers, error, members), scope)


def install(app: FastAPI, metrics: Metrics) -> None:
    """Turn every error of the application's routes into a response, and count it by name."""

    async def on_error(request: Request, error: Exception) -> Response:
        match error:
            case ServiceError():
                return problem_response(error, metrics, request.scope)
            case HTTPException():
                status = HTTPStatus(error.status_code)
                kind = status.phrase.lower().replace(" ", "-")
                detail = f"{request.method} {request.scope['path'][:200]}: {error.detail}. See /docs for what there is."
                headers = dict(error.headers or {})
                if headers.get("Allow") == "GET":
                    headers["Allow"] = "GET, HEAD"
                return _written(Failure(status, kind, detail, headers), request.scope)
            case RequestValidationError():
                faults = "; ".join(f"{'.'.join(map(str, e['loc'][1:]))}: {e['msg']}" for e in error.errors())
                metrics.errors.labels("bad-request").inc()
                return _written(Failure(HTTPStatus.BAD_REQUEST, "bad-request", faults), request.scope)
        raise error

    for kind in (ServiceError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, on_error)
