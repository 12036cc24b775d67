"""Errors in the form of other systems' contracts."""

from collections.abc import Mapping
from http import HTTPStatus

import orjson
from starlette.responses import Response

from microtome import errors
from service.http.problems import ErrorWriter, Failure

_KEPT_BY_EMBEDDING_APIS = (
    errors.Unauthenticated,
    errors.BodyTooSlow,
    errors.UnknownModel,
    errors.UnknownVersion,
    errors.UnknownOutput,
)
_KEPT_BY_INFERENCE_SERVERS = frozenset({401, 404, 405, 408})


def embedding_status(failure: Failure) -> HTTPStatus:
    """Return the status that clients of embedding APIs map to exceptions: 400 for most rejected requests."""
    rejected = isinstance(failure.error, errors.RequestRejected)
    kept = isinstance(failure.error, _KEPT_BY_EMBEDDING_APIS)
    return HTTPStatus.BAD_REQUEST if rejected and not kept else failure.status


def error_response(body: Mapping[str, object], status: int, headers: Mapping[str, str]) -> Response:
    """Write an error as JSON."""
    return Response(orjson.dumps(body), status, headers, "application/json")


def embedding_error(member: str) -> ErrorWriter:
    """Write errors as one sentence under `member`, with the status of embedding APIs: Cohere, Voyage AI."""

    def write(failure: Failure) -> Response:
        return error_response({member: failure.detail}, embedding_status(failure).value, failure.headers)

    return write


def inference_error(failure: Failure) -> Response:
    """Write an error as one sentence under `error`, rejected requests as 400: Weaviate, Open Inference Protocol."""
    rejected = isinstance(failure.error, errors.RequestRejected) and failure.status not in _KEPT_BY_INFERENCE_SERVERS
    return error_response({"error": failure.detail}, 400 if rejected else failure.status.value, failure.headers)
