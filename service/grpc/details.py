"""Errors as google.rpc.Status: the reason by name, when to try again, and which images are at fault.

See https://google.aip.dev/193. `reason` is the leaf of the error tree, stable; `message` is for people.
"""

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc import StatusCode

from microtome.errors import MicrotomeError
from service.errors import NoImageEmbedded, TemporarilyUnable, slug
from service.grpc.statuses import STATUS

DOMAIN = "microtome"
INTERNAL_ERROR = "INTERNAL_ERROR"
"""The reason of what should not have happened."""

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


def unexpected(request_id: str) -> Status:
    """Describe what should not have happened: an id to ask about, and nothing of our insides."""
    return _status(
        StatusCode.INTERNAL,
        "Something went wrong here. The log has the cause under this request's id.",
        ErrorInfo(reason=INTERNAL_ERROR, domain=DOMAIN, metadata={"request_id": request_id}),
    )


def _violations(error: NoImageEmbedded) -> BadRequest:
    """List what is wrong with each image, as many as there is room for."""
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
