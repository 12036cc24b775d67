"""Looks into the whole cache before a request takes a place: bounded in number, and by the bytes of the bodies."""

from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter

from service.auth import Caller
from service.core.admission import Budget
from service.core.embedder import Embedder
from service.core.lookup import Lookup

_MOST = 256
"""Looks that are waited for at a time. Further requests go the way on which each takes a place in flight."""

Seen = Callable[[float | None], None]
"""Is told how many seconds a look took, or None where it failed; what was found is in the lookup."""


class Looks:
    """Has images looked up, while their bodies' bytes are held in the budgets of bodies, the caller's own included.

    Attributes:
        waiting: looks that are waited for now.
    """

    def __init__(self, embedder: Embedder, bodies: Budget) -> None:
        self._embedder = embedder
        self._bodies = bodies
        self.waiting = 0

    async def wait(self, lookup: Lookup, size: int, caller: Caller | None) -> float | None:
        """Look, and return the seconds that it took; None if too many are waited for already.

        Raises:
            Overloaded: there is no room for a body of `size` bytes.
        """
        if self.waiting >= _MOST:
            return None
        start = perf_counter()
        budgets = self._held(size, caller)
        try:
            await self._embedder.look_further(lookup)
        finally:
            self._end(size, budgets)
        return perf_counter() - start

    def soon(self, lookup: Lookup, size: int, caller: Caller | None, seen: Seen) -> bool:
        """Look without a task that waits, and tell `seen`; return False where nobody looks, and nobody is told.

        Raises:
            Overloaded: as `wait` does.
        """
        if self.waiting >= _MOST:
            return False
        budgets = self._held(size, caller)
        looks = self._embedder.look_soon(lookup, partial(self._told, size, budgets, perf_counter(), seen))
        if not looks:
            self._end(size, budgets)
        return looks

    def _told(self, size: int, budgets: Sequence[Budget], start: float, seen: Seen, looked: bool) -> None:
        self._end(size, budgets)
        seen(perf_counter() - start if looked else None)

    def _held(self, size: int, caller: Caller | None) -> Sequence[Budget]:
        budgets = (self._bodies, caller.bodies) if caller and caller.bodies else (self._bodies,)
        for budget in budgets:
            budget.require(size)
        for budget in budgets:
            budget.change(size)
        self.waiting += 1
        return budgets

    def _end(self, size: int, budgets: Sequence[Budget]) -> None:
        self.waiting -= 1
        for budget in budgets:
            budget.change(-size)
