"""A request's head, read once: what middlewares and routes ask of it are a few names."""

from collections.abc import Mapping

from starlette.types import Scope

_HEAD = "microtome.head"

_LISTS = frozenset({b"accept", b"cache-control"})
"""Fields that are lists, which a proxy may spread over several lines: one line with commas means the same."""


def head(scope: Scope) -> Mapping[bytes, bytes]:
    """Return the headers by name in small letters; of one given several times the first, as Starlette has it.

    Those that are lists are put together, as RFC 9110 section 5.3 says.
    """
    found: dict[bytes, bytes] | None = scope.get(_HEAD)
    if found is None:
        headers = scope["headers"]
        found = scope[_HEAD] = dict(reversed(headers))
        if len(found) != len(headers):
            found |= {name: b", ".join([v for n, v in headers if n == name]) for name in _LISTS & found.keys()}
    return found
