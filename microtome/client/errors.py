"""Everything the client can fail with; the server's tree (docs/reference/problems.md) and what never reaches it.

* MicrotomeError
  x UnreadableImage         it could not be read or encoded here; nothing was sent
  x MixedVersions           answers came from different versions of the model
  x UnexpectedAnswer        whoever answered does not speak as Microtome does
  x RequestRejected         the caller must change something
    + BadRequest, Unauthenticated, NotAcceptable, BodyTooSlow, UrlNotAllowed, UrlNotFetched, NotAnImage, BrokenImage,
      ImageTooLarge, TooManyImages, NoImageEmbedded, UnknownModel, UnknownVersion, UnknownOutput, UnsupportedModality
  x TemporarilyUnable       the same request may succeed later; it was retried as often as the client was allowed to
    + Overloaded, ModelServerDown, ModelNotReady, DeadlineExceeded
    + Unreachable           no connection, or one that broke
  x ModelServerFault        the model server answered with something that cannot be right
  x InternalError           the server failed in a way it did not foresee; its log knows why

`kind` is the name that both transports have for an error, such as `image-too-large`.
"""

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType


class MicrotomeError(Exception):
    """An image or a call that came to nothing, and why; `str(error)` says what to do.

    Attributes:
        request_id: of the request, as the server logged it; empty where there was none.
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
    """Whoever answered does not speak as Microtome does: a proxy, or another service."""


class RequestRejected(MicrotomeError):
    """The caller must change something; the same request will fail again."""


class BadRequest(RequestRejected):
    """An option or the form of the request is wrong."""


class Unauthenticated(RequestRejected):
    """The request has no API key, or one that is not known there."""


class NotAcceptable(RequestRejected):
    """No form of answer that the client reads fits what was asked for."""


class BodyTooSlow(RequestRejected):
    """The request's body did not come fast enough."""


class UrlNotAllowed(RequestRejected):
    """Fetching an image from this address is not allowed there."""


class UrlNotFetched(RequestRejected):
    """The address was asked and gave no image."""


class NotAnImage(RequestRejected):
    """The bytes are no image in a format that the server reads."""


class BrokenImage(RequestRejected):
    """The bytes begin like an image, but are truncated or corrupt."""


class ImageTooLarge(RequestRejected):
    """The image has more bytes or pixels than the server's limits allow."""


class TooManyImages(RequestRejected):
    """The request had more images than the server's limit."""


class NoImageEmbedded(RequestRejected):
    """Every image of the request failed, each for its own reason.

    Attributes:
        failures: by the image's place in the request, as far as the server had room to tell.
    """

    failures: Mapping[int, MicrotomeError] = MappingProxyType({})


class UnknownModel(RequestRejected):
    """No model of this name is served there."""


class UnknownVersion(RequestRejected):
    """The model has no version of this number that could be asked now."""


class UnknownOutput(RequestRejected):
    """The model has no output of this name."""


class UnsupportedModality(RequestRejected):
    """Text or another kind of input than images; what is served there embeds images only."""


class TemporarilyUnable(MicrotomeError):
    """The same request may succeed later.

    Attributes:
        retry_after: seconds after which the server said that trying again makes sense; 0 when it said nothing.
    """

    retry_after: float = 0.0


class Overloaded(TemporarilyUnable):
    """The server has more work than its limits allow."""


class ModelServerDown(TemporarilyUnable):
    """The gateway cannot reach its model server."""


class ModelNotReady(TemporarilyUnable):
    """The model server lives, but has no version of this model ready."""


class DeadlineExceeded(TemporarilyUnable):
    """The time allowed for the call, or for one attempt, is over."""


class Unreachable(TemporarilyUnable):
    """No connection to the server, or one that broke before the answer was there."""


class ModelServerFault(MicrotomeError):
    """The model server answered with something that cannot be right."""


class InternalError(MicrotomeError):
    """The server failed in a way it did not foresee; its log has the cause under `request_id`."""


def _name(error: type[MicrotomeError]) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "-", error.__name__).lower()


def _tree(error: type[MicrotomeError]) -> Iterator[type[MicrotomeError]]:
    yield error
    for below in error.__subclasses__():
        yield from _tree(below)


KINDS: Mapping[str, type[MicrotomeError]] = {_name(error): error for error in _tree(MicrotomeError)}
"""Every error by its name."""


def named(kind: str, detail: str, *, retry_after: float = 0.0, request_id: str = "") -> MicrotomeError:
    """Make the error that the server named; one that is not known here yet is a rejection."""
    error = KINDS.get(kind, RequestRejected)(detail)
    error.request_id = request_id
    if isinstance(error, TemporarilyUnable):
        error.retry_after = retry_after
    return error


def none_embedded(detail: str, failures: Mapping[int, MicrotomeError]) -> MicrotomeError:
    """Make the error of a request of which no image was embedded; for reasons that pass, it is the first of them."""
    if failures and all(isinstance(failure, TemporarilyUnable) for failure in failures.values()):
        return next(iter(failures.values()))
    error = NoImageEmbedded(detail)
    error.failures = failures
    return error
