"""What TensorFlow Serving's status codes mean to us, its ambiguities included.

The messages are those of TensorFlow Serving 2.20. Its texts stay in our logs; callers get ours.
"""

from collections.abc import Mapping

from grpc import StatusCode

from service.errors import (
    DeadlineExceeded,
    ModelNotReady,
    ModelServerDown,
    ModelServerFault,
    Overloaded,
    ServiceError,
)


def to_service_error(code: StatusCode, details: str) -> ServiceError:
    """Translate one failed call. Total: a code that we do not expect is the server's fault."""
    # A full batching queue is UNAVAILABLE there, like a server that is not there at all.
    if code is StatusCode.UNAVAILABLE and "batch scheduling queue" in details:
        return Overloaded("The model server's queue is full. Try again in a second.")
    kind, message = _MEANING.get(code, _FAULT)
    return kind(message)


_MEANING: Mapping[StatusCode, tuple[type[ServiceError], str]] = {
    StatusCode.UNAVAILABLE: (ModelServerDown, "The model server cannot be reached. Try again in a few seconds."),
    # Exhausted threads, a queue that timed out and GPU memory look alike; so does our own receive limit, which is off.
    StatusCode.RESOURCE_EXHAUSTED: (Overloaded, "The model server has more work than it can do now. Try again later."),
    StatusCode.DEADLINE_EXCEEDED: (DeadlineExceeded, "The model server did not answer in the time allowed."),
    StatusCode.NOT_FOUND: (ModelNotReady, "The model server has no such version of the model ready."),
    # Our own channel being closed under a call: the gateway is stopping.
    StatusCode.CANCELLED: (ModelServerDown, "The gateway is stopping."),
}
_FAULT = (ModelServerFault, "The model server could not run the model on a request that follows its own manifest.")
