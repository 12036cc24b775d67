"""The client's errors: the shared tree of `microtome.errors`, and the failures that only a client sees.

* MicrotomeError
  x ServiceError            the gateway's answer; all its leaves are in `microtome.errors`
    + TemporarilyUnable
      - Unreachable         no connection, or one that broke
  x UnreadableImage         it could not be read or encoded here; nothing was sent
  x MixedVersions           responses came from different versions of the model
  x UnexpectedAnswer        the response is not Microtome's
  x InternalError           an unforeseen failure of the server; its log has the cause
"""

import re
from collections.abc import Iterator, Mapping

from microtome.errors import *  # noqa: F403, the whole tree is public under this name too
from microtome.errors import MicrotomeError, NoImageEmbedded, RequestRejected, TemporarilyUnable, slug


class UnreadableImage(MicrotomeError):
    """The image could not be read or encoded here; nothing was sent."""


class MixedVersions(MicrotomeError):
    """The model's version changed between two requests of one call; such vectors must not be compared."""


class UnexpectedAnswer(MicrotomeError):
    """The response is not Microtome's: it came from a proxy, or from another service."""


class Unreachable(TemporarilyUnable):
    """No connection to the server, or one that broke before the response was complete."""


class InternalError(MicrotomeError):
    """An unforeseen failure of the server; its log has the cause under `request_id`."""


def _tree(error: type[MicrotomeError]) -> Iterator[type[MicrotomeError]]:
    yield error
    for below in error.__subclasses__():
        yield from _tree(below)


KINDS: Mapping[str, type[MicrotomeError]] = {slug(error): error for error in _tree(MicrotomeError)}
"""Every error by its kind."""


def named(kind: str, detail: str, *, retry_after: float = 0.0, request_id: str = "") -> MicrotomeError:
    """Return the error of a kind; an unknown kind, from a newer server, is a rejection."""
    cls = KINDS.get(kind, RequestRejected)
    error = NoImageEmbedded({}, detail) if cls is NoImageEmbedded else cls(detail)
    error.request_id = request_id
    if isinstance(error, TemporarilyUnable):
        error.retry_after = retry_after
    return error


_PLACE = re.compile(r"\A(?:Image|Text) \d+: ")


def unplaced(detail: str) -> str:
    """Return what is wrong with an image or text without its place in the request, which a caller never sees."""
    return _PLACE.sub("", detail)


def none_embedded(detail: str, failures: Mapping[int, MicrotomeError]) -> MicrotomeError:
    """Return the error of a request whose images all failed: the first of them when all are temporary."""
    if failures and all(isinstance(failure, TemporarilyUnable) for failure in failures.values()):
        return next(iter(failures.values()))
    return NoImageEmbedded(failures, detail)
