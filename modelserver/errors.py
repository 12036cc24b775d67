"""The errors that the model server answers requests with.

* ServingError            — a status code and the text that TensorFlow Serving sends with it
  x InvalidArgument       — the request is wrong in any state of the server
  x NotFound              — no such model or version is loaded (now)
  x FailedPrecondition    — the model has no such signature, or cannot be batched
    x Deviates            — a version's vectors are not its manifest's golden ones
    x Absent              — an engine is not installed
  x PermissionDenied      — the server does not let callers do this
  x ResourceExhausted     — the request waited too long in the queue, or needs too much memory
  x Unavailable           — the queue is full: try again, or another server
  x Unimplemented         — part of the API that no embedding needs
  x Unknown               — a model did not become available
  x Internal              — a defect of this server
  x DataLoss              — a damaged file of a version

Errors that TensorFlow raises become a plain ServingError with TensorFlow's code. NothingToServe and CannotListen end
the start of the server.
"""

from grpc import StatusCode

CODES = {status.value[0]: status for status in StatusCode}
"""Status codes by number; gRPC, absl and TensorFlow's ``StatusProto`` use the same numbers."""


class ServingError(Exception):
    """A failure whose code and text are sent to the caller.

    Args:
        message: The text for the caller, in TensorFlow Serving's words where it has some.
        code: The status, if the class does not determine it.
    """

    code = StatusCode.UNKNOWN

    def __init__(self, message: str, code: StatusCode | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.code

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}"


class InvalidArgument(ServingError):
    """The request is wrong in any state of the server."""

    code = StatusCode.INVALID_ARGUMENT


class NotFound(ServingError):
    """The requested model or version is not loaded."""

    code = StatusCode.NOT_FOUND


class FailedPrecondition(ServingError):
    """The request does not fit this model."""

    code = StatusCode.FAILED_PRECONDITION


class Deviates(FailedPrecondition):
    """A version computes other vectors than its manifest's golden ones, and would again: it is not loaded."""


class Absent(FailedPrecondition):
    """An engine is not installed, or does not run here."""


class PermissionDenied(ServingError):
    """The server does not let callers do this."""

    code = StatusCode.PERMISSION_DENIED


class ResourceExhausted(ServingError):
    """The time in the queue or the memory ran out."""

    code = StatusCode.RESOURCE_EXHAUSTED


class Unavailable(ServingError):
    """The server cannot take this request now."""

    code = StatusCode.UNAVAILABLE


class Unimplemented(ServingError):
    """The API has this method, this server does not."""

    code = StatusCode.UNIMPLEMENTED


class Unknown(ServingError):
    """A model did not become available."""

    code = StatusCode.UNKNOWN


class Internal(ServingError):
    """A defect; the log has the details, the caller does not get them."""

    code = StatusCode.INTERNAL


class DataLoss(ServingError):
    """A file is damaged."""

    code = StatusCode.DATA_LOSS


class NothingToServe(Exception):
    """The options name no model, or none that loads."""


class CannotListen(Exception):
    """An address is not available; the text names it and the reason."""


def exit_status(error: Exception) -> int:
    """Return the exit status of a start that failed: 2 for settings that are wrong, in flags or files, else 1."""
    return 2 if isinstance(error, InvalidArgument | FailedPrecondition) else 1
