"""Single flight: a vector that is being computed is waited for, not computed again.

The work belongs to no request. It goes on as long as anybody waits for it, so that a caller who goes away harms nobody
who stays, and it is cancelled when the last one has gone.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import NamedTuple

from service.core.deadline import Deadline
from service.core.ports import Vectors
from service.core.timings import Timings

Made = dict[str, Vectors]
"""One image's vectors by output, each float32 [D]."""


class Landing(NamedTuple):
    """What came of a flight: the vectors, and the outputs of those that another gateway computed."""

    made: Made
    elsewhere: frozenset[str] = frozenset()


class Flight:
    """One image on its way through decoding and inference.

    Attributes:
        deadline: when the last who waits for it gives up.
    """

    def __init__(self, table: dict[str, "Flight"], keys: Sequence[str], timings: Timings, deadline: Deadline) -> None:
        self._table = table
        self._keys = keys
        self._passengers = 0
        self.timings = timings
        self.deadline = deadline
        self.task: asyncio.Task[Landing]

    def take_off(self, work: Coroutine[None, None, Landing]) -> None:
        """Start the work, and be found under the keys until it is done."""
        self.task = asyncio.create_task(work)
        self._table.update(dict.fromkeys(self._keys, self))
        self.task.add_done_callback(self._landed)

    def board(self) -> None:
        """Count somebody in, who has to `leave`."""
        self._passengers += 1

    def leave(self) -> None:
        """Count somebody out; when the last one leaves too early, the work is cancelled."""
        self._passengers -= 1
        if not self._passengers and not self.task.done():
            # Nobody may join what is about to be cancelled.
            self._vanish()
            self.task.cancel()

    async def over(self) -> None:
        """Wait until the work is done, whatever comes of it; who goes away meanwhile does not cancel it."""
        # As asyncio.wait does for many, at a third of what it costs.
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        wake = partial(_wake, waiter)
        self.task.add_done_callback(wake)
        try:
            await waiter
        finally:
            self.task.remove_done_callback(wake)

    def _landed(self, task: asyncio.Task[Landing]) -> None:
        self._vanish()
        if not task.cancelled():
            # Looked at, lest asyncio complains of an error that nobody stayed for.
            task.exception()

    def _vanish(self) -> None:
        for key in self._keys:
            if self._table.get(key) is self:
                del self._table[key]


def _wake(waiter: asyncio.Future[None], _: asyncio.Task[Landing]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class Flights:
    """The flights under way by key. For one event loop; no locks."""

    def __init__(self) -> None:
        self._table: dict[str, Flight] = {}

    def find(self, key: str) -> Flight | None:
        """Return the flight that makes this key's vector, if one is under way."""
        return self._table.get(key)

    def start(
        self, keys: Sequence[str], work: Coroutine[None, None, Landing], timings: Timings, deadline: Deadline
    ) -> Flight:
        """Start a flight that others find under `keys`; with no keys nobody finds it. Board it at once."""
        flight = Flight(self._table, keys, timings, deadline)
        flight.take_off(work)
        return flight
