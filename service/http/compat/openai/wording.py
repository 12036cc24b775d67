"""Errors as clients of this contract read them: OpenAI's under `error`, Jina's under `detail`.

The status decides which exception a client raises and whether it tries again; `x-should-retry` overrules the latter in
OpenAI's own clients.
"""

from http import HTTPStatus

import orjson
from starlette.responses import Response

from service import errors
from service.http.compat.rejections import status_of
from service.http.wording import Failure

_CODES = {
    "unauthenticated": "invalid_api_key",
    "unknown-model": "model_not_found",
    "overloaded": "rate_limit_exceeded",
}
"""Where OpenAI has a code of its own."""

_PARAMETERS: dict[type[errors.ServiceError], str] = {
    errors.UnknownModel: "model",
    errors.UnknownOutput: "model",
    errors.NotAnImage: "input",
    errors.BrokenImage: "input",
    errors.ImageTooLarge: "input",
    errors.TooManyImages: "input",
    errors.UnsupportedModality: "input",
    errors.UrlNotAllowed: "input",
    errors.UrlNotFetched: "input",
}


def worded(failure: Failure) -> Response:
    """Write a failure as OpenAI's and Jina's clients read it."""
    error = failure.error
    status = status_of(failure)
    body = {
        "error": {
            "message": failure.detail,
            "type": _type(status),
            "param": _PARAMETERS.get(type(error)) if error else None,
            "code": _CODES.get(failure.kind, failure.kind.replace("-", "_")),
        },
        "detail": failure.detail,
    }
    headers = {**failure.headers, **({"X-Should-Retry": _again(error)} if error else {})}
    return Response(orjson.dumps(body), status.value, headers, "application/json")


def _type(status: HTTPStatus) -> str:
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return "rate_limit_error"
    return "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"


def _again(error: errors.ServiceError) -> str:
    return "true" if isinstance(error, errors.TemporarilyUnable | errors.BodyTooSlow) else "false"
