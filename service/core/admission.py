"""Load shedding: bound the work in flight, and refuse work that would wait too long.

By Little's law a new image waits as long as the images before it take: their number, times the time between two
departures. That time is measured over the last departures while there was always work to do; so the bound holds on any
hardware, without a configured rate. Each model has an estimate of its own for each priority: bulk images wait for
interactive ones. Only images that must be computed are counted: answers from the cache wait for nothing, and are given
under any load.

Bulk requests may hold three quarters of each limit, so that there is room for interactive ones while a bulk run takes
all that it can get.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from math import ceil
from time import monotonic

from microtome.errors import Overloaded
from service.core.timeouts import Deadline

_MEASURED = 64
"""Departures that the rate is measured over."""

_ENOUGH = 8
"""Departures before a rate is believed: until then nothing is refused here, and the images in flight are the bound."""


_BULK_SHARE = 0.75
"""Of a limit, for bulk requests."""


class Budget:
    """Counts the work in flight (images, bytes) and refuses what goes beyond `limit`. For one event loop; no locks."""

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
            on_change: called with the amount held.
            reason: for refusing, in a word for operators; the unit if there is none.
        """
        self._limit = limit
        self._unit = unit
        self._reason = reason or unit
        self._on_change = on_change
        self._held = 0

    def for_bulk(self, on_change: Callable[[int], object] = lambda _: None) -> "Budget":
        """Return the budget that bulk requests hold beside this one; it leaves a quarter to interactive ones."""
        limit, reason = max(1, int(_BULK_SHARE * self._limit)), f"bulk-{self._reason}"
        return Budget(limit, f"{self._unit} of bulk requests", on_change, reason=reason)

    def require(self, amount: int, before: int = 0) -> None:
        """Refuse what `hold` would refuse now, or once others hold the amount that they are about to.

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

    def left(self) -> int:
        """Return what there is room for; less than nothing when more is held than the limit."""
        return self._limit - self._held

    def hold(self, amount: int) -> "_Held":
        """Hold `amount` while the block runs.

        A single amount larger than the limit is let through when nothing else is held, since no retry could make it
        fit: its size is bounded elsewhere, by the limits of one request.

        Raises:
            Overloaded: there is no room now.
        """
        return _Held(self, amount)

    def change(self, amount: int) -> None:
        """Count so much more, or less, whatever the limit is."""
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


class Backlog:
    """Counts the images that are being computed, and refuses one that would wait longer than `longest` seconds.

    As a context manager it holds the place of one image while the block runs; it may be entered many times.
    """

    def __init__(self, longest: float, clock: Callable[[], float] = monotonic, *, reason: str = "wait") -> None:
        self._longest = longest
        self._clock = clock
        self._reason = reason
        self._inside = 0
        self._departures: deque[float] = deque(maxlen=_MEASURED)

    def wait(self) -> float:
        """Estimate how many seconds an image that arrived now would wait."""
        if len(self._departures) < _ENOUGH:
            return 0.0
        # Up to now, not to the last departure: while nothing leaves, the estimate grows.
        return self._inside * (self._clock() - self._departures[0]) / len(self._departures)

    def require(self) -> None:
        """Refuse an image now if entering would, before anything is done for it.

        Raises:
            Overloaded: the wait would be too long; it tells when to try again.
        """
        expected = self.wait()
        if expected > self._longest:
            raise Overloaded(
                f"An image that came now would wait about {expected:.1f} s; at most {self._longest:g} s are allowed. "
                "Try again later.",
                retry_after=max(1, ceil(expected - self._longest)),
                reason=self._reason,
            )

    def __enter__(self) -> None:
        self.require()
        if not self._inside:
            # Time without work says nothing of how fast work is done.
            self._departures.clear()
            self._departures.append(self._clock())
        self._inside += 1

    def __exit__(self, *_: object) -> None:
        self._inside -= 1
        self._departures.append(self._clock())


class Backlogs:
    """A backlog for each model and priority: images wait for those of their own, not for a slow model's.

    What models share, the model server's processor, shows in how fast the images of each of them leave.
    """

    def __init__(self, longest: float) -> None:
        self._longest = longest
        self._known: dict[tuple[str, bool], Backlog] = {}

    def of(self, model: str, *, bulk: bool = False) -> Backlog:
        """Return a model's backlog of a priority."""
        return self._known.get((model, bulk)) or Backlog(self._longest, reason="bulk-wait" if bulk else "wait")

    def entered(self, model: str, *, bulk: bool = False) -> Backlog:
        """Return a model's backlog to enter; only models that are served have one of their own."""
        return self._known.setdefault((model, bulk), self.of(model, bulk=bulk))


class BulkGate:
    """Lets few bulk images at a time on to the threads that decode.

    There, what came first is done first: an interactive image finds no more bulk ones before it than pass here at a
    time. For one event loop; no locks.
    """

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: deque[asyncio.Future[bool]] = deque()

    async def enter(self, deadline: Deadline) -> bool:
        """Wait for a place, in order of arrival.

        Returns:
            whether there is a place to `leave`; false when an interactive request has joined, which needs none.
        """
        if self._free:
            self._free -= 1
            return True
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)

        def go_on() -> None:
            if not turn.done():
                turn.set_result(False)

        deadline.hurried = go_on
        try:
            return await turn
        except asyncio.CancelledError:
            if not turn.cancelled() and turn.result():
                self.leave()
            raise

    def leave(self) -> None:
        """Hand a place on to the first that still waits."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(True)
                return
        self._free += 1


class HitRatio:
    """Under overload, skip the cache lookup while the hit ratio is below 1 %.

    Cached vectors cost next to nothing, so while some are found every image is looked up before it is refused. While
    none are, the lookup would be most of the cost of a refusal. One hit in the sample turns all lookups on again.
    """

    _WINDOW = 64
    """Lookups that the ratio is averaged over, the latest counting most."""

    _WORTH = 0.01
    """Ratio from which on every image is looked up: a lookup costs about a hundredth of computing a vector."""

    _SAMPLE = 64
    """One image of so many is looked up below that ratio, to measure it: it is read and hashed for that, and with one
    of 16 this was a fifth of what refusals cost. At a ratio of r the first hit is seen after 64/r images."""

    def __init__(self) -> None:
        self._ratio = 1.0
        self._skipped = 0

    def count(self, *, hit: bool) -> None:
        """Count a lookup."""
        self._ratio += (hit - self._ratio) / self._WINDOW

    def lookup_pays(self) -> bool:
        """Whether the next image is to be looked up before it is refused."""
        if self._ratio >= self._WORTH:
            return True
        self._skipped = (self._skipped + 1) % self._SAMPLE
        return not self._skipped
