"""The errors that the model server answers requests with.

* ServingError            — a status code and the text that TensorFlow Serving sends with it
  x InvalidArgument       — the request is wrong in any state of the server
  x NotFound              — no such model or version is loaded (now)
  x FailedPrecondition    — the model has no such signature, or cannot be batched
  x ResourceExhausted     — the request waited too long in the queue, or needs too much memory
  x Unavailable           — the queue is full: try again, or another server
  x Unimplemented         — part of the API that no embedding needs
  x Unknown               — a model did not become available
  x Internal              — a defect of this server
  x DataLoss              — a damaged warm-up file

Errors that TensorFlow raises become a plain ServingError with TensorFlow's code.
"""

from enum import IntEnum
from typing import ClassVar


class Code(IntEnum):
    """The canonical status codes; absl, gRPC and TensorFlow's ``StatusProto`` use the same numbers."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class ServingError(Exception):
    """A failure whose code and text are sent to the caller.

    Args:
        code: The status.
        message: The text for the caller, in TensorFlow Serving's words where it has some.
    """

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}"


class _OfOneCode(ServingError):
    """A ServingError whose class determines the code."""

    fixed: ClassVar[Code]

    def __init__(self, message: str) -> None:
        super().__init__(self.fixed, message)


class InvalidArgument(_OfOneCode):
    """The request is wrong in any state of the server."""

    fixed = Code.INVALID_ARGUMENT


class NotFound(_OfOneCode):
    """The requested model or version is not loaded."""

    fixed = Code.NOT_FOUND


class FailedPrecondition(_OfOneCode):
    """The request does not fit this model."""

    fixed = Code.FAILED_PRECONDITION


class ResourceExhausted(_OfOneCode):
    """The time in the queue or the memory ran out."""

    fixed = Code.RESOURCE_EXHAUSTED


class Unavailable(_OfOneCode):
    """The server cannot take this request now."""

    fixed = Code.UNAVAILABLE


class Unimplemented(_OfOneCode):
    """The API has this method, this server does not."""

    fixed = Code.UNIMPLEMENTED


class Unknown(_OfOneCode):
    """A model did not become available."""

    fixed = Code.UNKNOWN


class Internal(_OfOneCode):
    """A defect; the log has the details, the caller does not get them."""

    fixed = Code.INTERNAL


class DataLoss(_OfOneCode):
    """A file is damaged."""

    fixed = Code.DATA_LOSS
