"""Errors as problem details (RFC 9457): one stable `type` for each leaf of the error tree."""

from functools import cache
from http import HTTPStatus

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from service.errors import BodyTooSlow, NoImageEmbedded, ServiceError, TemporarilyUnable, Unauthenticated, slug
from service.http.raw import RawResponse, raw
from service.http.statuses import STATUS
from service.http.wording import Failure, wording_for
from service.telemetry.metrics import Metrics

MEDIA_TYPE = "application/problem+json"


def problem(failure: Failure) -> Response:
    """Build a problem-details answer; `about:blank` rules do not apply, every type is ours."""
    body = {
        "type": f"urn:microtome:problem:{failure.kind}",
        "title": _title(failure.kind),
        "status": failure.status.value,
        "detail": failure.detail,
        **failure.members,
    }
    written = orjson.dumps(body)
    # By hand, since in an overload this is what most requests are answered with.
    headers = {**failure.headers, "Content-Length": str(len(written)), "Content-Type": MEDIA_TYPE}
    return RawResponse(failure.status.value, raw(headers), written)


def told(failure: Failure, scope: Scope) -> Response:
    """Build the answer to a failure, in the words of the contract that the request was made in."""
    return (wording_for(scope) or problem)(failure)


def fault(index: int, error: ServiceError) -> dict[str, object]:
    """Describe what is wrong with one image of a request, as a problem of its own."""
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


def unexpected(request_id: str, scope: Scope) -> Response:
    """Build the answer to what should not have happened: an id to ask about, and nothing of our insides."""
    failure = Failure(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "internal-error",
        "Something went wrong here. The log has the cause under this request's id.",
        members={"request_id": request_id},
    )
    return told(failure, scope)


def _headers(error: ServiceError) -> dict[str, str]:
    match error:
        case TemporarilyUnable():
            return {"Retry-After": str(error.retry_after)}
        case Unauthenticated():
            return {"WWW-Authenticate": "Bearer"}
        case BodyTooSlow():
            # The rest of the body may still come; nobody is going to read it.
            return {"Connection": "close"}
    return {}


def _members(error: ServiceError) -> dict[str, object]:
    if isinstance(error, NoImageEmbedded):
        return {"errors": [fault(index, one) for index, one in error.failures.items()]}
    return {}


def answer_to(error: ServiceError, metrics: Metrics, scope: Scope) -> Response:
    """Build the answer to an error of the tree, and count it."""
    kind = slug(type(error))
    metrics.failed(error)
    return told(Failure(STATUS[type(error)], kind, str(error), _headers(error), error, _members(error)), scope)


def install(app: FastAPI, metrics: Metrics) -> None:
    """Make every error of the routes below `app` an answer in its contract's words, counted by name."""

    async def on_service_error(request: Request, error: Exception) -> Response:
        if not isinstance(error, ServiceError):
            raise error
        return answer_to(error, metrics, request.scope)

    async def on_http_error(request: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            raise error
        status = HTTPStatus(error.status_code)
        kind = status.phrase.lower().replace(" ", "-")
        detail = f"{request.method} {request.url.path[:200]}: {error.detail}. See /docs for what there is."
        return told(Failure(status, kind, detail, error.headers or {}), request.scope)

    async def on_bad_option(request: Request, error: Exception) -> Response:
        if not isinstance(error, RequestValidationError):
            raise error
        faults = "; ".join(f"{'.'.join(map(str, e['loc'][1:]))}: {e['msg']}" for e in error.errors())
        metrics.errors.labels("bad-request").inc()
        return told(Failure(HTTPStatus.BAD_REQUEST, "bad-request", faults), request.scope)

    app.add_exception_handler(ServiceError, on_service_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(RequestValidationError, on_bad_option)
