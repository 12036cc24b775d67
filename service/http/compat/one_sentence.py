"""Errors as one sentence under `error`, which is how Weaviate and the Open Inference Protocol have it."""

import orjson
from starlette.responses import Response

from service.errors import RequestRejected
from service.http.wording import Failure

_KEPT = {401, 404, 405, 408}


def worded(failure: Failure) -> Response:
    """Write a failure: its sentence under `error`, rejections as 400."""
    rejected = isinstance(failure.error, RequestRejected) and failure.status not in _KEPT
    status = 400 if rejected else failure.status.value
    return Response(orjson.dumps({"error": failure.detail}), status, dict(failure.headers), "application/json")
