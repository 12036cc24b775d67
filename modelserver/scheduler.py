"""Runs requests in a few slots, off the event loop, and lets those that wait for a slot gather into batches.

While nothing runs a request starts at once. While others run and a slot is free it waits for mates, for a tenth of the
time that the last run took: otherwise whoever comes first after a large batch runs alone, and runs of one image cost
twice as much per image (of 500 runs for 16 clients of one image each, 284 were of one image; lingering gives 5 % more).

Requests share a batch when they are for the same version, fetch the same outputs, and agree in element types and in
every dimension but the first. The real server batches across shapes and types and then fails every request of the
batch: keeping them apart is the one liberty taken, so that no request can poison its mates.
"""

import asyncio
import math
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from modelserver.batch_queue import BatchQueue, Task
from modelserver.batch_run import Feeds, count_rows, run_alone, run_batch
from modelserver.errors import Internal, ServingError
from modelserver.servable import Servable
from modelserver.tensor_decoding import Array

Kind = tuple[Servable, tuple[str, ...], Hashable]

LINGER_SHARE = 0.1
"""How long to wait for mates, as a share of the last run's time."""

LONGEST_LINGER = 0.01
"""And in no case longer than this, in seconds."""


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Bounds of a batch and of the queues.

    Attributes:
        max_batch_size: Largest batch, and largest request, when the model's manifest does not say; in rows.
        max_enqueued_batches: How many batches may wait in one queue.
    """

    max_batch_size: int = 64
    max_enqueued_batches: int = 10


class Scheduler:
    """Runs requests, taking the kinds in turn. Lives on the event loop.

    Args:
        threads: Where models run; as many as ``slots``.
        slots: How many runs may be under way at once.
        limits: How to batch; None runs every request by itself, and lets any number wait.
    """

    def __init__(self, threads: Executor, slots: int, limits: BatchLimits | None) -> None:
        self._threads = threads
        self._slots = self._free = slots
        self._limits = limits
        self._queues: OrderedDict[Kind, BatchQueue] = OrderedDict()
        self._runs: set[asyncio.Task[None]] = set()
        self._last_run_seconds = 0.0
        self._loop = asyncio.get_running_loop()
        self._alarm: asyncio.TimerHandle = self._loop.call_later(0, lambda: None)

    async def run(
        self, servable: Servable, feeds: Feeds, fetches: Sequence[str], deadline: float | None = None
    ) -> list[Array]:
        """Compute tensors, together with whoever asks for the same.

        Args:
            servable: The version; it stays loaded until the run is over, even when the caller gives up.
            feeds: Arrays by tensor name.
            fetches: Tensor names.
            deadline: Time on the loop's clock after which the request is not started any more.

        Returns:
            One array per fetch, in their order.

        Raises:
            InvalidArgument: The request cannot be batched, or is larger than a batch.
            Unavailable: The queue is full.
            ResourceExhausted: The deadline passed in the queue.
            ServingError: What the runtime said.
        """
        rows = count_rows(feeds) if self._limits else 1
        task = Task(feeds, rows, deadline, self._loop.create_future())
        kind, queue = self._queue_for(servable, feeds, tuple(fetches))
        queue.put(task, self._loop.time())
        self._queues[kind] = queue
        servable.acquire()
        try:
            self._dispatch()
            answer: list[Array] = await task.answer
        except asyncio.CancelledError:
            queue.leave(task)
            raise
        else:
            return answer
        finally:
            servable.release()

    def _queue_for(self, servable: Servable, feeds: Feeds, fetches: tuple[str, ...]) -> tuple[Kind, BatchQueue]:
        """Find the queue for requests of this kind; it exists only while someone waits in it."""
        if self._limits is None:
            return (servable, fetches, object()), BatchQueue(1, 1)
        kind = (servable, fetches, tuple((name, array.dtype, array.shape[1:]) for name, array in feeds.items()))
        fresh = BatchQueue(servable.max_batch_size or self._limits.max_batch_size, self._limits.max_enqueued_batches)
        return kind, self._queues.get(kind, fresh)

    def _dispatch(self) -> None:
        """Fill the free slots, with one batch of each kind in turn."""
        while self._free and (kind := self._next_kind()):
            queue = self._queues.pop(kind)
            tasks = queue.take().worth_running(self._loop.time())
            if queue.batches:
                self._queues[kind] = queue
            if tasks:
                self._free -= 1
                servable, fetches, _ = kind
                servable.acquire()  # for the run: its callers may leave before it is over
                run = asyncio.create_task(self._run(servable, fetches, tasks))
                self._runs.add(run)
                run.add_done_callback(self._runs.discard)

    def _next_kind(self) -> Kind | None:
        """Choose whose turn it is; when all had better gather a little longer, arrange to be asked again."""
        if not self._queues:
            return None
        now = self._loop.time()
        linger = min(LINGER_SHARE * self._last_run_seconds, LONGEST_LINGER) if self._free < self._slots else 0.0
        earliest = math.inf
        for kind, queue in self._queues.items():
            when = queue.ready_at(linger)
            if when <= now:
                return kind
            earliest = min(earliest, when)
        self._alarm.cancel()
        self._alarm = self._loop.call_at(earliest, self._dispatch)
        return None

    async def _run(self, servable: Servable, fetches: Sequence[str], tasks: Sequence[Task]) -> None:
        """Run one batch, and let its outcome be the answer to all who wait for it."""
        work = run_batch if self._limits else run_alone
        mates = [task.feeds for task in tasks]
        began = self._loop.time()
        try:
            answers = await self._loop.run_in_executor(self._threads, work, servable.model, mates, fetches)
        except Exception as error:  # noqa: BLE001 (whoever waits gets it, and logs it)
            for task in tasks:
                if not task.answer.done():
                    task.answer.set_exception(_own_copy(error))
        else:
            for task, answer in zip(tasks, answers, strict=True):
                if not task.answer.done():
                    task.answer.set_result(answer)
        finally:
            servable.release()
            self._last_run_seconds = self._loop.time() - began
            self._free += 1
            self._dispatch()

    async def drained(self) -> None:
        """Wait until nothing runs and nothing waits."""
        while self._runs:
            await asyncio.wait(self._runs)


def _own_copy(error: Exception) -> Exception:
    """Give every caller an exception of its own: the traceback of a shared one would grow with each that raises it."""
    if isinstance(error, ServingError):
        return ServingError(error.code, error.message)
    internal = Internal("Running the model failed")
    internal.__cause__ = error
    return internal
