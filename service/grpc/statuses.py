"""Which gRPC status each error has, total over the leaves of the error tree; and what it counts as in the metrics."""

from collections.abc import Mapping
from typing import Final

from grpc import StatusCode

from microtome.errors import MicrotomeError
from service import errors

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
