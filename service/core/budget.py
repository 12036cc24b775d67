"""Bound the work in flight, so that memory is bounded by configuration, and waiting by the bound."""

from collections.abc import Callable

from service.errors import Overloaded


class Budget:
    """Counts what is in flight (images, bytes) and refuses what goes beyond `limit`. For one event loop; no locks."""

    def __init__(
        self,
        limit: int,
        unit: str,
        on_change: Callable[[int], object] = lambda _: None,
        *,
        reason: str | None = None,
    ) -> None:
        """Hold nothing yet.

        Args:
            limit: the most to hold.
            unit: what is counted, for callers.
            on_change: is told what is held.
            reason: for refusing, in a word for operators; the unit if there is none.
        """
        self._limit = limit
        self._unit = unit
        self._reason = reason or unit
        self._on_change = on_change
        self._held = 0

    def require(self, amount: int, before: int = 0) -> None:
        """Refuse what `hold` would refuse now, or once others hold what they have come for, before anything is done.

        Args:
            amount: how much there is to be room for.
            before: how much the others will hold.

        Raises:
            Overloaded: there is no room now.
        """
        held = self._held + before
        if held and held + amount > self._limit:
            raise Overloaded(
                f"The server already holds {held} of {self._limit} {self._unit}. Try again in a second.",
                reason=self._reason,
            )

    def hold(self, amount: int) -> "_Held":
        """Hold `amount` while the block runs.

        A single amount larger than the limit is let through when nothing else is held, since no retry could make it
        fit: its size is bounded elsewhere, by the limits of one request.

        Raises:
            Overloaded: there is no room now.
        """
        return _Held(self, amount)

    def change(self, amount: int) -> None:
        """Count so much more, or less, whatever the limit says; for who holds it."""
        self._held += amount
        self._on_change(self._held)


class _Held:
    """Amounts held; no generator, which costs more: it runs with every request."""

    __slots__ = ("_amount", "_budget")

    def __init__(self, budget: Budget, amount: int) -> None:
        self._budget = budget
        self._amount = amount

    def __enter__(self) -> None:
        self._budget.require(self._amount)
        self._budget.change(self._amount)

    def __exit__(self, *_: object) -> None:
        self._budget.change(-self._amount)
