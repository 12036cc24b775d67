"""From our errors to gRPC statuses: the numbers are the same, and texts are cut as TensorFlow Serving cuts them."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from modelserver.errors import Code, Internal, ServingError

log = logging.getLogger(__name__)

LONGEST_MESSAGE = 1024
STATUS = {code: next(status for status in grpc.StatusCode if status.value[0] == code) for code in Code}


def cut(message: str) -> str:
    """Shorten a message to 1,024 bytes, and say so at its end."""
    data = message.encode()
    if len(data) <= LONGEST_MESSAGE:
        return message
    return data[:LONGEST_MESSAGE].decode(errors="ignore") + "...TRUNCATED"


@asynccontextmanager
async def answering(context: "grpc.aio.ServicerContext[Any, Any]") -> AsyncIterator[None]:
    """Turn what the block raises into the status of the call. What we did not foresee is logged and not told."""
    try:
        yield
    except ServingError as error:
        failure = error
        if isinstance(error, Internal):
            log.exception("A request failed inside")
    except Exception:
        log.exception("A request failed inside")
        failure = Internal("Internal error; see the log of the model server")
    else:
        return
    await context.abort(STATUS[failure.code], cut(failure.message))
