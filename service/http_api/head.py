"""A request's head, read once: what middlewares and routes ask of it are a few names."""

from collections.abc import Mapping

from starlette.types import Scope

_HEAD = "microtome.head"


def head(scope: Scope) -> Mapping[bytes, bytes]:
    """Return the headers by name in small letters; of one given several times the first, as Starlette has it."""
    found: dict[bytes, bytes] | None = scope.get(_HEAD)
    if found is None:
        found = scope[_HEAD] = dict(reversed(scope["headers"]))
    return found
