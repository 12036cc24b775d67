"""What a request can fail with: one vocabulary for the gateway, the client and everything between them.

* MicrotomeError
  x ServiceError            what a gateway answers with
    + RequestRejected         the caller must change something
      - BadRequest            an option or the form of the body is wrong
      - UnsupportedModality   an input of a kind that the model does not take, such as text for a model of images
      - Unauthenticated       no API key, or an unknown one
      - NotAcceptable         no form of answer that the caller accepts fits the request
      - BodyTooSlow           the request's body does not arrive in time
      - UrlNotAllowed         fetching from this address is not allowed
      - UrlNotFetched         the address was requested and returned no image
      - NotAnImage            the bytes are in no image format that is read
      - BrokenImage           an image, but truncated or corrupt
      - ImageTooLarge         more bytes or more pixels than the limits allow
      - TooManyImages         more images in one request than the limit allows
      - NoImageEmbedded       every image of the request failed, each for its own reason
      - UnknownModel          no model of this name is served
      - UnknownVersion        the model has no such version, or no longer
      - UnknownOutput         the model has no such output
    + TemporarilyUnable       the same request may succeed later
      - Overloaded            more work in flight than the limits allow
      - ModelServerDown       the model server cannot be reached
      - ModelNotReady         the model server answers, but this model is not ready
      - DeadlineExceeded      the time allowed for the request is over
    + ModelServerFault        the model server's answer cannot be right

Errors carry meaning, never a transport's number: each transport has a total table (`service/http/problems.py`,
`service/grpc/errors.py`). Messages go to the caller unchanged, so each says what was expected, what was received and
what to do, and nothing about internals. The client adds its own leaves in `microtome/client/errors.py`.
"""

import re
from collections.abc import Collection, Mapping
from functools import cache
from math import ceil


class MicrotomeError(Exception):
    """An image or a request that failed; `str(error)` says why and what to do.

    Attributes:
        request_id: identifies the request in the server's log; empty if unknown.
    """

    request_id: str = ""

    @property
    def kind(self) -> str:
        """The stable name, as in HTTP's problem types: `ImageTooLarge` is `image-too-large`."""
        return slug(type(self))


class ServiceError(MicrotomeError):
    """A request that the gateway did not answer. `str(error)` is written for the caller."""


class RequestRejected(ServiceError):
    """The caller must change the request; the same one will fail again."""


class BadRequest(RequestRejected):
    """An option or the form of the body is wrong."""


class UnsupportedModality(RequestRejected):
    """An input of a kind that the model does not take: text for a model of images, an image for a text tower, audio."""


class Unauthenticated(RequestRejected):
    """The request has no API key, or an unknown one."""


class NotAcceptable(RequestRejected):
    """No media type that the caller accepts fits the request."""


class BodyTooSlow(RequestRejected):
    """The request's body does not arrive, or not fast enough."""


class UrlNotAllowed(RequestRejected):
    """Fetching an image from this address is not allowed here."""


class UrlNotFetched(RequestRejected):
    """Fetching from this address gave no image: not in time, too large, or none at all."""


class NotAnImage(RequestRejected):
    """The bytes are no image of a known format."""


class BrokenImage(RequestRejected):
    """The bytes begin like an image, but are truncated or corrupt."""


class ImageTooLarge(RequestRejected):
    """The image, or the request as a whole, has more bytes or pixels than the limits allow."""


class TooManyImages(RequestRejected):
    """The request has more images than the limit allows."""


class NoImageEmbedded(RequestRejected):
    """Every image of the request failed, each for its own reason.

    Attributes:
        failures: error by the image's index in the request, as far as the answer had room for them.
    """

    def __init__(self, failures: Mapping[int, MicrotomeError], message: str = "") -> None:
        super().__init__(
            message or f"None of {len(failures)} images could be embedded; `errors` says why, image by image."
        )
        self.failures = failures

    def __reduce__(self) -> tuple[object, ...]:
        """Copy and pickle with the failures: by default the message would take their place."""
        return type(self), (self.failures, str(self)), self.__dict__


class UnknownModel(RequestRejected):
    """No model of this name is served here."""


class UnknownVersion(RequestRejected):
    """The model has no version of this number that is available now."""


class UnknownOutput(RequestRejected):
    """The model has no output of this name."""


class TemporarilyUnable(ServiceError):
    """The same request may succeed later.

    Attributes:
        retry_after: seconds to wait before the next attempt; 0 where the failure gives no time.
    """

    def __init__(self, message: str, *, retry_after: float = 0) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    @property
    def announced_seconds(self) -> int:
        """Whole seconds that a server announces to the caller, at least 1."""
        return max(1, ceil(self.retry_after))


class Overloaded(TemporarilyUnable):
    """More work is in flight than the limits allow.

    Attributes:
        reason: the limit, in a word for operators.
    """

    def __init__(self, message: str, *, retry_after: float = 0, reason: str = "model-server") -> None:
        super().__init__(message, retry_after=retry_after)
        self.reason = reason


class ModelServerDown(TemporarilyUnable):
    """The model server cannot be reached."""


class ModelNotReady(TemporarilyUnable):
    """The model server is up, but has no version of this model ready."""


class DeadlineExceeded(TemporarilyUnable):
    """The time allowed for the request is over."""


class ModelServerFault(ServiceError):
    """The model server answered with something that cannot be right: a wrong shape, a value that is not finite.

    Attributes:
        rows: indices in the batch of the images at fault; empty when the whole answer is.
    """

    def __init__(self, message: str, *, rows: Collection[int] = ()) -> None:
        super().__init__(message)
        self.rows = frozenset(rows)


def slug(error: type[MicrotomeError]) -> str:
    """Return the stable name of an error, for problem types and metrics: `ModelServerDown` is `model-server-down`."""
    return _dashed(error.__name__)


@cache
def _dashed(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()


def shown(text: str) -> str:
    """Return text for a terminal, which would obey some characters of names from strangers: these are escaped."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
