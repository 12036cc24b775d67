"""Everything the model server answers with when it does not answer with tensors.

* ServingError            — a status code and the text that TensorFlow Serving puts beside it
  x InvalidArgument       — the request is wrong and stays wrong
  x NotFound              — no such model or version is loaded (now)
  x FailedPrecondition    — the model has no such signature, or cannot be batched
  x ResourceExhausted     — waited too long in the queue, or asked for too much memory
  x Unavailable           — the queue is full: try again, or elsewhere
  x Unimplemented         — part of the API that no embedding needs
  x Unknown               — a model did not become available
  x Internal              — a defect of ours
  x DataLoss              — a damaged warm-up file

What TensorFlow itself raises is a plain ServingError with TensorFlow's own code.
"""

from enum import IntEnum


class Code(IntEnum):
    """The canonical status codes; the numbers are the same in absl, gRPC and TensorFlow's ``StatusProto``."""

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
    """A failure whose code and text are meant for the caller.

    Args:
        code: The status.
        message: What the caller reads, in TensorFlow Serving's words where it has some.
    """

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}"


class InvalidArgument(ServingError):
    """The request is wrong, whatever the state of the server."""

    def __init__(self, message: str) -> None:
        super().__init__(Code.INVALID_ARGUMENT, message)


class NotFound(ServingError):
    """What the request names is not loaded."""

    def __init__(self, message: str) -> None:
        super().__init__(Code.NOT_FOUND, message)


class FailedPrecondition(ServingError):
    """The request does not fit this model."""

    def __init__(self, message: str) -> None:
        super().__init__(Code.FAILED_PRECONDITION, message)


class ResourceExhausted(ServingError):
    """Time in the queue or memory ran out."""

    def __init__(self, message: str) -> None:
        super().__init__(Code.RESOURCE_EXHAUSTED, message)


class Unavailable(ServingError):
    """The server cannot take this request now."""

    def __init__(self, message: str) -> None:
        super().__init__(Code.UNAVAILABLE, message)


class Unimplemented(ServingError):
    """The API has this method, this server does not."""

    def __init__(self, message: str) -> None:
        super().__init__(Code.UNIMPLEMENTED, message)


class Unknown(ServingError):
    """A model did not become available."""

    def __init__(self, message: str) -> None:
        super().__init__(Code.UNKNOWN, message)


class Internal(ServingError):
    """A defect; the log has the details, the caller does not get them."""

    def __init__(self, message: str) -> None:
        super().__init__(Code.INTERNAL, message)


class DataLoss(ServingError):
    """A file is damaged."""

    def __init__(self, message: str) -> None:
        super().__init__(Code.DATA_LOSS, message)
