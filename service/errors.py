"""The errors of the gateway.

* ServiceError
  x RequestRejected         the caller must change the request
    + BadRequest            an option or the form of the body is wrong
    + UnsupportedModality   text, audio or video; only images are embedded
    + Unauthenticated       no API key, or an unknown one
    + NotAcceptable         no media type that the caller accepts fits the request
    + BodyTooSlow           the request's body does not arrive
    + UrlNotAllowed         fetching from this address is not allowed
    + UrlNotFetched         fetching from this address gave no image
    + NotAnImage            the bytes are no image of a known format
    + BrokenImage           an image, but truncated or corrupt
    + ImageTooLarge         more bytes or more pixels than the limits allow
    + TooManyImages         more images in one request than the limit allows
    + NoImageEmbedded       every image of the request failed, each for its own reason
    + UnknownModel          no such model is served here
    + UnknownVersion        the model has no such version, or no longer
    + UnknownOutput         the model has no such output
  x TemporarilyUnable       the same request may succeed later
    + Overloaded            more work in flight than the limits allow
    + ModelServerDown       the model server cannot be reached
    + ModelNotReady         the model server is up, but this model is not ready yet
    + DeadlineExceeded      the time allowed for the request is over
  x ModelServerFault        the model server answered with something that cannot be right

Errors have no status codes: each transport has a total table (`http/problems.py`, `grpc/errors.py`). Messages go to the
caller unchanged, so they say what was expected, what was received and what to do, and nothing of internals.

`CacheUnavailable` is outside the tree: it never reaches a caller, since a cache that is down is one that misses.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from copy import copy
from difflib import get_close_matches
from functools import cache
from typing import TypeVar

E = TypeVar("E", bound=BaseException)


class ServiceError(Exception):
    """A request that was not answered, and why. `str(error)` is written for the caller."""


class RequestRejected(ServiceError):
    """The caller must change the request; the same one will fail again."""


class BadRequest(RequestRejected):
    """An option or the form of the body is wrong."""


class UnsupportedModality(RequestRejected):
    """Text or another kind of input than images; only images are embedded here."""


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
        failures: by the image's index in the request.
    """

    def __init__(self, failures: Mapping[int, ServiceError]) -> None:
        super().__init__(f"None of {len(failures)} images could be embedded; `errors` says why, image by image.")
        self.failures = failures


class UnknownModel(RequestRejected):
    """No model of this name is served here."""


class UnknownVersion(RequestRejected):
    """The model has no version of this number that is available now."""


class UnknownOutput(RequestRejected):
    """The model has no output of this name."""


class TemporarilyUnable(ServiceError):
    """The same request may succeed later.

    Attributes:
        retry_after: seconds after which trying again makes sense.
    """

    def __init__(self, message: str, *, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Overloaded(TemporarilyUnable):
    """More work is in flight than the limits allow.

    Attributes:
        reason: which limit, in a word for operators.
    """

    def __init__(self, message: str, *, retry_after: int = 1, reason: str = "model-server") -> None:
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
        rows: of the batch, that are at fault; empty when the whole answer is.
    """

    def __init__(self, message: str, *, rows: Collection[int] = ()) -> None:
        super().__init__(message)
        self.rows = frozenset(rows)


class CacheUnavailable(Exception):
    """The cache could not be read or written. Never reaches a caller."""


def slug(error: type[ServiceError]) -> str:
    """Return an error's name in problem types and metrics: `ModelServerDown` is `model-server-down`."""
    return _dashed(error.__name__)


@cache
def _dashed(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()


def restated(error: E, message: str | None = None) -> E:
    """Return a fresh copy of an error to raise, with another message if one is given.

    One instance raised by many requests would collect all their tracebacks.
    """
    fresh = copy(error)
    if message is not None:
        fresh.args = (message,)
    return fresh.with_traceback(None)


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Return the message for an unknown name: the name received, and the nearest known names, or all of a few."""
    names = sorted(known)
    shown = names if len(names) <= 8 else get_close_matches(name, names, n=3, cutoff=0.0)
    listed = ", ".join(repr(n) for n in shown)
    return f"Unknown {kind} {name[:80]!r}. {'Known' if len(names) <= 8 else 'Nearest'}: {listed or 'none'}."
