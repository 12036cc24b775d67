"""Single flight: a vector that is being computed is waited for, not computed again.

In this process a flight belongs to no request. It goes on while any request waits for it, so that a cancelled caller
does not affect the others, and is cancelled with its last waiter.

Across gateways a vector that another one computes is waited for, at most for the length of its lease. A gateway first
computes what it has leases for, and waits then: two gateways that want each other's vectors do not wait in a circle.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from time import monotonic
from typing import NamedTuple

import numpy as np

from service.core.ports import Acquired, Leases, Vectors
from service.core.timeouts import Deadline
from service.core.timings import Stages, Timings

_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 0.1
"""Seconds between two polls for vectors that another gateway computes; each pause is half as long again as the last."""

OutputVectors = dict[str, Vectors]
"""One image's vectors by output, each float32 [D]."""

Compute = Callable[[Sequence[str]], Awaitable[OutputVectors]]
"""Computes one image's vectors of the outputs named."""


class Result(NamedTuple):
    """What a flight computed: the vectors, and the outputs of those that another gateway computed."""

    vectors: OutputVectors
    elsewhere: frozenset[str] = frozenset()


class Flight:
    """Decoding and inference of one image, under way.

    Attributes:
        deadline: when its last waiter gives up.
        fresh: whether its vectors are certainly computed now, and none is another gateway's or the cache's.
    """

    def __init__(  # noqa: PLR0913, all that is known of it
        self,
        table: dict[str, "Flight"],
        keys: Sequence[str],
        work: Coroutine[None, None, Result],
        timings: Timings,
        deadline: Deadline,
        *,
        fresh: bool,
    ) -> None:
        self._table = table
        self.fresh = fresh
        self._keys = keys
        self._waiters = 0
        self.timings = timings
        self.deadline = deadline
        self.task: asyncio.Task[Result] = asyncio.create_task(work)
        table.update(dict.fromkeys(keys, self))
        self.task.add_done_callback(self._done)

    def join(self) -> None:
        """Count a waiter, who has to `leave`."""
        self._waiters += 1

    def leave(self) -> None:
        """Discount a waiter; when the last one leaves before the work is done, it is cancelled."""
        self._waiters -= 1
        if not self._waiters and not self.task.done():
            # No request may join what is about to be cancelled.
            self._remove()
            self.task.cancel()

    def _done(self, task: asyncio.Task[Result]) -> None:
        self._remove()
        if not task.cancelled():
            task.exception()  # marked as seen: every waiter may have left

    def _remove(self) -> None:
        for key in self._keys:
            if self._table.get(key) is self:
                del self._table[key]


class SingleFlight:
    """The flights under way by key. For one event loop; no locks."""

    def __init__(self) -> None:
        self._table: dict[str, Flight] = {}

    def find(self, key: str, *, fresh: bool = False) -> Flight | None:
        """Return the flight that computes this key's vector, if one is under way; if `fresh`, only one that is."""
        found = self._table.get(key)
        return None if found is None or (fresh and not found.fresh) else found

    def start(
        self,
        keys: Sequence[str],
        work: Coroutine[None, None, Result],
        timings: Timings,
        deadline: Deadline,
        *,
        fresh: bool,
    ) -> Flight:
        """Start a flight that others find under `keys`; without keys none finds it. Join it at once."""
        return Flight(self._table, keys, work, timings, deadline, fresh=fresh)


class NoLeases:
    """Chosen when gateways do not share their work."""

    seconds = 0.0

    async def acquire(self, keys: Sequence[str]) -> Acquired:  # noqa: ARG002, the port's
        """Leave everything to the caller."""
        return Acquired()

    def release(self, keys: Sequence[str]) -> None:
        """Do nothing."""

    def outlived(self, keys: Sequence[str]) -> None:
        """Do nothing."""


class GatewaySingleFlight:
    """Computes what no other gateway computes, and waits for the rest."""

    def __init__(self, leases: Leases, clock: Callable[[], float] = monotonic) -> None:
        self._leases = leases
        self._clock = clock

    async def vectors(
        self, keys: Mapping[str, str], dims: Mapping[str, int], compute: Compute, stages: Stages
    ) -> Result:
        """Return one image's vectors.

        Args:
            keys: cache keys by output's name.
            dims: numbers in each output's vector.
            compute: computes the vectors of some of these outputs, and stores them.
            stages: told how long other gateways were waited for ("elsewhere").
        """
        vectors: OutputVectors = {}
        theirs: set[str] = set()
        waited, pause = 0.0, _FIRST_PAUSE
        give_up = self._clock() + self._leases.seconds
        while missing := {name: key for name, key in keys.items() if name not in vectors}:
            acquired = Acquired()
            if self._clock() <= give_up:
                acquired = await self._leases.acquire(list(missing.values()))
            else:
                # A second gateway that dies does not cost a second lease, and a lease that is none's costs no more.
                self._leases.outlived(list(missing.values()))
            # A value of the wrong length is no answer.
            found: OutputVectors = {
                name: np.frombuffer(value, "<f4")
                for name, key in missing.items()
                if (value := acquired.found.get(key)) is not None and len(value) == 4 * dims[name]
            }
            vectors |= found
            theirs |= set(found)
            mine = [name for name, key in missing.items() if name not in found and key not in acquired.elsewhere]
            if mine:
                try:
                    vectors |= await compute(mine)
                except BaseException:
                    self._leases.release([keys[name] for name in mine])
                    raise
            elif len(vectors) < len(keys):
                start = self._clock()
                await asyncio.sleep(pause)
                waited += self._clock() - start
                pause = min(1.5 * pause, _LONGEST_PAUSE)
        if waited:
            stages("elsewhere", waited)
        return Result(vectors, frozenset(theirs))
