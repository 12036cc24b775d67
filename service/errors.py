"""What only the gateway needs of errors beside the shared tree in `microtome.errors`."""

from collections.abc import Iterable, Mapping
from copy import copy
from difflib import get_close_matches
from reprlib import Repr
from typing import TypeVar

from microtome.errors import BadRequest, ModelNotReady, UnknownModel

T = TypeVar("T")
E = TypeVar("E", bound=BaseException)


_MOST_SHOWN = 80

_repr = Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = _MOST_SHOWN


class CacheUnavailable(Exception):
    """The cache could not be read or written. Never reaches a caller: a cache that is down is one that misses."""


def restated(error: E, message: str | None = None) -> E:
    """Return a fresh copy of an error to raise, with another message if one is given.

    One instance raised by many requests would collect all their tracebacks.
    """
    fresh = copy(error)
    if message is not None:
        fresh.args = (message,)
    return fresh.with_traceback(None)


def shown(value: object) -> str:
    """Return a caller's value as messages show it, cut: the rest may be long, or deeper than Python can write."""
    text = _repr.repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Return the message for an unknown name: the name received, and the nearest known names, or all of a few."""
    names = sorted(known)
    name = name[:_MOST_SHOWN]
    near = names if len(names) <= 8 else get_close_matches(name, names, n=3, cutoff=0.0)
    listed = ", ".join(map(repr, near))
    return f"Unknown {kind} {name!r}. {'Known' if len(names) <= 8 else 'Nearest'}: {listed or 'none'}."


def of_model(name: str, models: Mapping[str, T]) -> T:
    """Return the entry of a model; an empty name, where no model is the default, means the only one.

    Raises:
        UnknownModel: there is none of this name.
        BadRequest: no name, and several models.
        ModelNotReady: no name, and no model yet.
    """
    if name in models:
        return models[name]
    if name:
        raise UnknownModel(unknown("model", name, models))
    if not models:
        raise ModelNotReady("No model is served yet. Try again in a few seconds.", retry_after=2)
    if len(models) > 1:
        listed = ", ".join(sorted(models)[:8])
        raise BadRequest(f"Expected the name of a model, since there is no default here; there are: {listed}.")
    return next(iter(models.values()))
