"""Errors as problem details (RFC 9457): one stable `type` for each leaf of the error tree."""

import re
from http import HTTPStatus

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from service.errors import BodyTooSlow, NoImageEmbedded, ServiceError, TemporarilyUnable, Unauthenticated
from service.http_api.statuses import STATUS
from service.telemetry.metrics import Metrics

MEDIA_TYPE = "application/problem+json"


def slug(error: type[ServiceError]) -> str:
    """Name an error the way problem types do: `ModelServerDown` is `model-server-down`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", error.__name__).lower()


def problem(
    status: HTTPStatus, kind: str, detail: str, headers: dict[str, str] | None = None, **more: object
) -> Response:
    """Build a problem-details answer.

    Args:
        status: the answer's.
        kind: the last part of the problem's type; `about:blank` rules do not apply, every type is ours.
        detail: for the caller: what was expected, what came, what to do.
        headers: of the answer, such as Retry-After.
        more: further members, such as the request's id.
    """
    body = {
        "type": f"urn:microtome:problem:{kind}",
        "title": _title(kind),
        "status": status.value,
        "detail": detail,
        **more,
    }
    return Response(orjson.dumps(body), status.value, headers, MEDIA_TYPE)


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


def _title(kind: str) -> str:
    return kind.replace("-", " ").capitalize()


def unexpected(request_id: str) -> Response:
    """Build the answer to what should not have happened: an id to ask about, and nothing of our insides."""
    return problem(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "internal-error",
        "Something went wrong here. The log has the cause under this request's id.",
        request_id=request_id,
    )


def _headers(error: ServiceError) -> dict[str, str] | None:
    match error:
        case TemporarilyUnable():
            return {"Retry-After": str(error.retry_after)}
        case Unauthenticated():
            return {"WWW-Authenticate": "Bearer"}
        case BodyTooSlow():
            # The rest of the body may still come; nobody is going to read it.
            return {"Connection": "close"}
    return None


def _members(error: ServiceError) -> dict[str, object]:
    if isinstance(error, NoImageEmbedded):
        return {"errors": [fault(index, one) for index, one in error.failures.items()]}
    return {}


def answer_to(error: ServiceError, metrics: Metrics) -> Response:
    """Build the answer to an error of the tree, and count it."""
    kind = slug(type(error))
    metrics.errors.labels(kind).inc()
    return problem(STATUS[type(error)], kind, str(error), _headers(error), **_members(error))


def install(app: FastAPI, metrics: Metrics) -> None:
    """Make every error of the routes below `app` a problem-details answer, counted by name."""

    async def on_service_error(_: Request, error: Exception) -> Response:
        if not isinstance(error, ServiceError):
            raise error
        return answer_to(error, metrics)

    async def on_http_error(request: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            raise error
        status = HTTPStatus(error.status_code)
        kind = status.phrase.lower().replace(" ", "-")
        detail = f"{request.method} {request.url.path[:200]}: {error.detail}. See /docs for what there is."
        return problem(status, kind, detail, dict(error.headers or {}))

    async def on_bad_option(_: Request, error: Exception) -> Response:
        if not isinstance(error, RequestValidationError):
            raise error
        faults = "; ".join(f"{'.'.join(map(str, e['loc'][1:]))}: {e['msg']}" for e in error.errors())
        metrics.errors.labels("bad-request").inc()
        return problem(HTTPStatus.BAD_REQUEST, "bad-request", faults)

    app.add_exception_handler(ServiceError, on_service_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(RequestValidationError, on_bad_option)
