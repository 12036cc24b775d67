"""The client's errors: the server's tree (docs/reference/problems.md), and errors that never reach the server.

* MicrotomeError
  x UnreadableImage         it could not be read or encoded here; nothing was sent
  x MixedVersions           responses came from different versions of the model
  x UnexpectedAnswer        the response is not Microtome's
  x RequestRejected         the caller must change something
    + BadRequest, Unauthenticated, NotAcceptable, BodyTooSlow, UrlNotAllowed, UrlNotFetched, NotAnImage, BrokenImage,
      ImageTooLarge, TooManyImages, NoImageEmbedded, UnknownModel, UnknownVersion, UnknownOutput, UnsupportedModality
  x TemporarilyUnable       the same request may succeed later; it was retried as often as the policy allows
    + Overloaded, ModelServerDown, ModelNotReady, DeadlineExceeded
    + Unreachable           no connection, or one that broke
  x ModelServerFault        the model server's response cannot be right
  x InternalError           an unforeseen failure of the server; its log has the cause

`kind` is an error's name in both transports, such as `image-too-large`.
"""

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType


class MicrotomeError(Exception):
    """An image or a call failed; `str(error)` says why and what to do.

    Attributes:
        request_id: the request's id in the server's log; empty when there was no request.
    """

    request_id: str = ""

    @property
    def kind(self) -> str:
        """The error's stable name, as in the problem types of HTTP: `ImageTooLarge` is `image-too-large`."""
        return _name(type(self))


class UnreadableImage(MicrotomeError):
    """The image could not be read or encoded here; nothing was sent."""


class MixedVersions(MicrotomeError):
    """The model's version changed between two requests of one call; such vectors must not be compared."""


class UnexpectedAnswer(MicrotomeError):
    """The response is not Microtome's: it came from a proxy, or from another service."""


class RequestRejected(MicrotomeError):
    """The caller must change something; the same request will fail again."""


class BadRequest(RequestRejected):
    """An option or the form of the request is wrong."""


class Unauthenticated(RequestRejected):
    """The request has no API key, or one that the server does not know."""


class NotAcceptable(RequestRejected):
    """The server has no form of response that the client reads for this request."""


class BodyTooSlow(RequestRejected):
    """The request's body did not come fast enough."""


class UrlNotAllowed(RequestRejected):
    """The server may not fetch an image from this address."""


class UrlNotFetched(RequestRejected):
    """The address returned no image."""


class NotAnImage(RequestRejected):
    """The bytes are not an image in a format that the server reads."""


class BrokenImage(RequestRejected):
    """The bytes begin like an image, but are truncated or corrupt."""


class ImageTooLarge(RequestRejected):
    """The image has more bytes or pixels than the server's limits allow."""


class TooManyImages(RequestRejected):
    """The request had more images than the server's limit."""


class NoImageEmbedded(RequestRejected):
    """Every image of the request failed, each for its own reason.

    Attributes:
        failures: errors by the image's place in the request; the server may leave some out.
    """

    failures: Mapping[int, MicrotomeError] = MappingProxyType({})


class UnknownModel(RequestRejected):
    """The server has no model of this name."""


class UnknownVersion(RequestRejected):
    """The model has no version of this number that takes requests."""


class UnknownOutput(RequestRejected):
    """The model has no output of this name."""


class UnsupportedModality(RequestRejected):
    """Text or another kind of input than images; the served models embed images only."""


class TemporarilyUnable(MicrotomeError):
    """The same request may succeed later.

    Attributes:
        retry_after: seconds to wait before a retry, as the server asked; 0 when it did not say.
    """

    retry_after: float = 0.0


class Overloaded(TemporarilyUnable):
    """The server has more work than its limits allow."""


class ModelServerDown(TemporarilyUnable):
    """The gateway cannot reach its model server."""


class ModelNotReady(TemporarilyUnable):
    """The model server runs, but has no version of this model ready."""


class DeadlineExceeded(TemporarilyUnable):
    """The time allowed for the call, or for one attempt, is over."""


class Unreachable(TemporarilyUnable):
    """No connection to the server, or one that broke before the response was complete."""


class ModelServerFault(MicrotomeError):
    """The model server's response cannot be right."""


class InternalError(MicrotomeError):
    """An unforeseen failure of the server; its log has the cause under `request_id`."""


def _name(error: type[MicrotomeError]) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "-", error.__name__).lower()


def _tree(error: type[MicrotomeError]) -> Iterator[type[MicrotomeError]]:
    yield error
    for below in error.__subclasses__():
        yield from _tree(below)


KINDS: Mapping[str, type[MicrotomeError]] = {_name(error): error for error in _tree(MicrotomeError)}
"""Every error by its kind."""


def named(kind: str, detail: str, *, retry_after: float = 0.0, request_id: str = "") -> MicrotomeError:
    """Return the error of a kind; an unknown kind, from a newer server, is a rejection."""
    error = KINDS.get(kind, RequestRejected)(detail)
    error.request_id = request_id
    if isinstance(error, TemporarilyUnable):
        error.retry_after = retry_after
    return error


def none_embedded(detail: str, failures: Mapping[int, MicrotomeError]) -> MicrotomeError:
    """Return the error of a request whose images all failed: the first of them when all are temporary."""
    if failures and all(isinstance(failure, TemporarilyUnable) for failure in failures.values()):
        return next(iter(failures.values()))
    error = NoImageEmbedded(detail)
    error.failures = failures
    return error
