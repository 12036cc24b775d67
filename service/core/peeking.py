"""Read from a cache without waiting, where it has an in-process tier."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from service.core.ports import VectorCache

Peek = Callable[[Sequence[str]], list[bytes] | None]
"""Returns all values in the order of the keys if none of them must be waited for, else None."""


@runtime_checkable
class Peekable(Protocol):
    """A cache with an in-process tier."""

    def peek(self, keys: Sequence[str]) -> list[bytes] | None:
        """Return all values in the order of the keys if none of them must be waited for, else None."""
        ...


def peek_of(cache: VectorCache) -> Peek:
    """Return the cache's `peek`; for a cache without one, a function that always returns None."""
    return cache.peek if isinstance(cache, Peekable) else _nothing


def _nothing(_: Sequence[str]) -> list[bytes] | None:
    return None
