"""Ask a cache without waiting for it: for what is within reach, or to be told later. Neither needs a task."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from service.core.ports import VectorCache

Peek = Callable[[Sequence[str]], list[bytes] | None]
"""Returns all the values in the order of the keys if nobody has to be waited for, else None."""

Then = Callable[[list[bytes | None] | BaseException], None]
"""Is told the values in the order of the keys, None where there is none, or what went wrong. Must not raise."""

Ask = Callable[[Sequence[str], Then], bool]
"""Has the values looked up, and `Then` told of them once: at once where nobody has to be waited for.

Returns False, and tells nobody, where there is no such way: then they have to be waited for.
"""


@runtime_checkable
class Peekable(Protocol):
    """A cache that has some of its values within reach."""

    def peek(self, keys: Sequence[str]) -> list[bytes] | None:
        """Return all the values in the order of the keys if nobody has to be waited for, else None."""
        ...


@runtime_checkable
class Askable(Protocol):
    """A cache that tells later what it has."""

    def ask(self, keys: Sequence[str], then: Then) -> bool:
        """Have the values looked up, and `then` told of them; return False where there is no such way."""
        ...


def peek_of(cache: VectorCache) -> Peek:
    """Return a cache's way of peeking; one that has none has nothing within reach."""
    return cache.peek if isinstance(cache, Peekable) else _nothing


def ask_of(cache: VectorCache) -> Ask:
    """Return a cache's way of being asked without a task that waits."""
    return cache.ask if isinstance(cache, Askable) else _nobody


def _nothing(_: Sequence[str]) -> list[bytes] | None:
    return None


def _nobody(_: Sequence[str], __: Then) -> bool:
    return False
