"""Ask a cache for what is within reach, without waiting: who finds everything there needs no task, timer or budget."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from service.embedding.ports import VectorCache

Peek = Callable[[Sequence[str]], list[bytes] | None]
"""Returns all the values in the order of the keys if nobody has to be waited for, else None."""


@runtime_checkable
class Peekable(Protocol):
    """A cache that has some of its values within reach."""

    def peek(self, keys: Sequence[str]) -> list[bytes] | None:
        """Return all the values in the order of the keys if nobody has to be waited for, else None."""
        ...


def peek_of(cache: VectorCache) -> Peek:
    """Return a cache's way of peeking; one that has none has nothing within reach."""
    return cache.peek if isinstance(cache, Peekable) else _nothing


def _nothing(_: Sequence[str]) -> list[bytes] | None:
    return None
