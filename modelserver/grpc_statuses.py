"""From our errors to gRPC statuses: the numbers are the same, and texts are cut as TensorFlow Serving cuts them."""

import logging
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


class answering:  # noqa: N801 (read as a word: async with answering(context))
    """Turns what its block raises into the status of the call. What we did not foresee is logged and not told."""

    __slots__ = ("_context",)

    def __init__(self, context: "grpc.aio.ServicerContext[Any, Any]") -> None:
        self._context = context

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, Exception):
            return
        failure = error if isinstance(error, ServingError) else None
        if failure is None or isinstance(failure, Internal):
            log.error("A request failed inside", exc_info=error)
        failure = failure or Internal("Internal error; see the log of the model server")
        await self._context.abort(STATUS[failure.code], cut(failure.message))
