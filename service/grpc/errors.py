"""Errors as google.rpc.Status: the status code, the reason by name, when to try again, and which images are at fault.

See https://google.aip.dev/193. `reason` is the leaf of the error tree, stable; `message` is for people. The table of
status codes is total over the leaves of the error tree.
"""

from collections.abc import Mapping
from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc import StatusCode

from microtome import errors
from microtome.errors import MicrotomeError, NoImageEmbedded, TemporarilyUnable, slug

STATUS: Final[Mapping[type[MicrotomeError], StatusCode]] = {
    errors.BadRequest: StatusCode.INVALID_ARGUMENT,
    errors.UnsupportedModality: StatusCode.INVALID_ARGUMENT,
    errors.Unauthenticated: StatusCode.UNAUTHENTICATED,
    errors.NotAcceptable: StatusCode.INVALID_ARGUMENT,
    errors.BodyTooSlow: StatusCode.DEADLINE_EXCEEDED,
    errors.UrlNotAllowed: StatusCode.PERMISSION_DENIED,
    errors.UrlNotFetched: StatusCode.FAILED_PRECONDITION,
    errors.NotAnImage: StatusCode.INVALID_ARGUMENT,
    errors.BrokenImage: StatusCode.INVALID_ARGUMENT,
    # Not RESOURCE_EXHAUSTED, which clients take for "try again".
    errors.ImageTooLarge: StatusCode.INVALID_ARGUMENT,
    errors.TooManyImages: StatusCode.INVALID_ARGUMENT,
    errors.NoImageEmbedded: StatusCode.INVALID_ARGUMENT,
    errors.UnknownModel: StatusCode.NOT_FOUND,
    errors.UnknownVersion: StatusCode.NOT_FOUND,
    errors.UnknownOutput: StatusCode.NOT_FOUND,
    errors.Overloaded: StatusCode.RESOURCE_EXHAUSTED,
    errors.ModelServerDown: StatusCode.UNAVAILABLE,
    errors.ModelNotReady: StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: StatusCode.DEADLINE_EXCEEDED,
    errors.ModelServerFault: StatusCode.INTERNAL,
}

COUNTED_AS: Final[Mapping[StatusCode, str]] = {
    StatusCode.OK: "200",
    StatusCode.CANCELLED: "499",
    StatusCode.INVALID_ARGUMENT: "400",
    StatusCode.UNAUTHENTICATED: "401",
    StatusCode.PERMISSION_DENIED: "403",
    StatusCode.FAILED_PRECONDITION: "400",
    StatusCode.NOT_FOUND: "404",
    StatusCode.RESOURCE_EXHAUSTED: "429",
    StatusCode.INTERNAL: "500",
    StatusCode.UNAVAILABLE: "503",
    StatusCode.DEADLINE_EXCEEDED: "504",
}
"""The HTTP status that google/rpc/code.proto gives to each code, so that alerts and error budgets hold for both."""

DOMAIN = "microtome"
INTERNAL_ERROR = "INTERNAL_ERROR"
"""The reason of an unexpected error."""

_ROOM = 4096
"""Bytes of images' errors in a call's status: it travels as a header, of which clients take 8 KB in all."""


def reason(error: type[MicrotomeError]) -> str:
    """Name an error as ErrorInfo does: `ModelServerDown` is `MODEL_SERVER_DOWN`."""
    return slug(error).replace("-", "_").upper()


def described(error: MicrotomeError, **metadata: str) -> Status:
    """Describe an error of the tree; `metadata` goes into its ErrorInfo."""
    details: list[Message] = [ErrorInfo(reason=reason(type(error)), domain=DOMAIN, metadata=metadata)]
    if isinstance(error, TemporarilyUnable):
        details.append(RetryInfo(retry_delay=Duration(seconds=error.announced_seconds)))
    if isinstance(error, NoImageEmbedded):
        details.append(_violations(error))
    return _status(STATUS[type(error)], str(error), *details)


def describe_unexpected(request_id: str) -> Status:
    """Describe an unexpected error: the request's id, and no internals."""
    return _status(
        StatusCode.INTERNAL,
        "Something went wrong here. The log has the cause under this request's id.",
        ErrorInfo(reason=INTERNAL_ERROR, domain=DOMAIN, metadata={"request_id": request_id}),
    )


def _violations(error: NoImageEmbedded) -> BadRequest:
    """List what is wrong with each image, as many images as there is room for."""
    found = BadRequest()
    for index, one in error.failures.items():
        if found.ByteSize() > _ROOM:
            break
        found.field_violations.add(field=f"images[{index}]", description=str(one), reason=reason(type(one)))
    return found


def _status(code: StatusCode, message: str, *details: Message) -> Status:
    status = Status(code=code.value[0], message=message)
    for detail in details:
        status.details.add().Pack(detail)
    return status
