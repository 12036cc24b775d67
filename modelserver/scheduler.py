"""Runs requests in a few slots, off the event loop, and lets those that wait for a slot gather into batches.

Unless a file of batching parameters names a timeout: while nothing runs a request starts at once; while others run and
a slot is free it waits for mates, for a tenth of the time that the last run took. Otherwise whoever comes first after a
large batch runs alone, and runs of one image cost twice as much per image (of 500 runs for 16 clients of one image
each, 284 were of one image; lingering gives 5 % more).

Requests share a batch when they are for the same version, fetch the same outputs, and agree in element types and in
every dimension but the first. The real server batches across shapes and types and then fails every request of the
batch: keeping them apart is the one liberty taken, so that no request can poison its mates.
"""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress

import numpy as np

from modelserver.batch_limits import BatchLimits
from modelserver.batch_queue import Batch, BatchQueue, Task
from modelserver.batch_run import Feeds, count_rows, run_batch
from modelserver.errors import Internal, ServingError
from modelserver.metrics import Metrics
from modelserver.servable import Servable
from modelserver.tensor_decoding import Array

Kind = tuple[Servable, tuple[str, ...], Hashable]

LINGER_SHARE = 0.1
"""How long to wait for mates, as a share of the last run's time."""

LONGEST_LINGER = 0.01
"""And in no case longer than this, in seconds."""

SHORTEST_ALARM = 0.001
"""Seconds after which to look again whether a batch has gathered."""


class Scheduler:
    """Runs requests, taking the kinds in turn. Lives on the event loop.

    Args:
        threads: Where models run; as many as ``slots``.
        slots: How many runs may be under way at once.
        metrics: Where batches are counted.
    """

    def __init__(self, threads: Executor, slots: int, metrics: Metrics) -> None:
        self._threads = threads
        self._slots = self._free = slots
        self._metrics = metrics
        self._queues: OrderedDict[Kind, BatchQueue] = OrderedDict()
        self._run_over = asyncio.Event()
        self._last_run_seconds = 0.0
        self._loop = asyncio.get_running_loop()
        self._alarm: asyncio.TimerHandle = self._loop.call_later(0, lambda: None)

    async def run(
        self, servable: Servable, feeds: Feeds, fetches: Sequence[str], deadline: float | None = None
    ) -> list[Array]:
        """Compute tensors, together with whoever asks for the same.

        Args:
            servable: The version; it stays loaded until the run is over, even when the caller gives up. Its ``limits``
                say how to batch; without any, the request runs by itself, and any number may wait.
            feeds: Arrays by tensor name.
            fetches: Tensor names.
            deadline: Time, by ``time.monotonic``, after which the request is not started any more.

        Returns:
            One array per fetch, in their order.

        Raises:
            InvalidArgument: The request cannot be batched, or is larger than a batch.
            Unavailable: The queue is full.
            ResourceExhausted: The deadline passed in the queue.
            ServingError: What the runtime said.
        """
        tasks, queue = self._enqueue(servable, feeds, tuple(fetches), deadline)
        servable.acquire()
        try:
            self._dispatch()
            # Nearly every request is one part, and needs no gathering.
            answers = [await tasks[0].answer] if len(tasks) == 1 else await asyncio.gather(*(t.answer for t in tasks))
        except BaseException:
            for task in tasks:  # the parts that still wait: nobody will read their answers
                task.answer.cancel()
                queue.leave(task)
            raise
        else:
            return answers[0] if len(answers) == 1 else [np.concatenate(parts) for parts in zip(*answers, strict=True)]
        finally:
            servable.release()

    def _enqueue(
        self, servable: Servable, feeds: Feeds, fetches: tuple[str, ...], deadline: float | None
    ) -> tuple[list[Task], BatchQueue]:
        """Put a request where it belongs, in one part or, when it is large and its model says so, in several."""
        rows, now = count_rows(feeds) if servable.limits else 1, time.monotonic()
        kind, queue = self._queue_for(servable, feeds, fetches)
        tasks = []
        for size, part in _parts(feeds, queue.admit(rows)):
            tasks.append(Task(part, size, now, deadline, self._loop.create_future()))
            queue.put(tasks[-1])
        self._queues[kind] = queue
        if servable.limits:
            for _ in feeds:
                self._metrics.enqueued(rows)
        return tasks, queue

    def _queue_for(self, servable: Servable, feeds: Feeds, fetches: tuple[str, ...]) -> tuple[Kind, BatchQueue]:
        """Find the queue for requests of this kind; it exists only while someone waits in it."""
        limits = servable.limits
        if limits is None:
            return (servable, fetches, object()), BatchQueue(BatchLimits(1, 1))
        alike = tuple(
            (name, array.dtype, array.ndim if limits.pad_inputs else array.shape[1:]) for name, array in feeds.items()
        )
        kind = (servable, fetches, alike)
        return kind, self._queues.get(kind) or BatchQueue(limits)

    def _dispatch(self) -> None:
        """Fill the free slots, with one batch of each kind in turn."""
        while self._free and (kind := self._next_kind()):
            queue = self._queues.pop(kind)
            servable, fetches, _ = kind
            batch, now = queue.take(), time.monotonic()
            tasks = batch.worth_running(now)
            if queue.batches:
                self._queues[kind] = queue
            if servable.limits:
                self._count(batch, tasks, servable.limits, now)
            if tasks:
                self._begin(servable, fetches, tasks)

    def _count(self, batch: Batch, tasks: Sequence[Task], limits: BatchLimits, now: float) -> None:
        for task in batch.tasks:
            self._metrics.dequeued(now - task.arrived)
        if tasks:
            rows = sum(task.rows for task in tasks)
            self._metrics.batch(rows, limits.padded(rows))

    def _next_kind(self) -> Kind | None:
        """Choose whose turn it is; when all had better gather a little longer, arrange to be asked again."""
        if not self._queues:
            return None
        now = time.monotonic()
        linger = min(LINGER_SHARE * self._last_run_seconds, LONGEST_LINGER) if self._free < self._slots else 0.0
        earliest = math.inf
        for kind, queue in self._queues.items():
            timeout = queue.limits.timeout
            when = queue.ready_at(linger if timeout is None else timeout)
            if when <= now:
                return kind
            earliest = min(earliest, when)
        self._alarm.cancel()
        # uvloop counts whole milliseconds: less than one would ask again at once, and again.
        self._alarm = self._loop.call_later(max(earliest - now, SHORTEST_ALARM), self._dispatch)
        return None

    def _begin(self, servable: Servable, fetches: Sequence[str], tasks: Sequence[Task]) -> None:
        """Run one batch in a free slot. No task and no future of the loop: they cost more than they are worth here."""
        self._free -= 1
        servable.acquire()  # for the run: its callers may leave before it is over
        mates, began = [task.feeds for task in tasks], time.monotonic()

        def over(run: "Future[list[list[Array]]]") -> None:
            with suppress(RuntimeError):  # the loop has ended, and with it all who waited
                self._loop.call_soon_threadsafe(self._end, servable, tasks, began, run)

        self._threads.submit(run_batch, servable.model, mates, fetches, servable.limits).add_done_callback(over)

    def _end(self, servable: Servable, tasks: Sequence[Task], began: float, run: "Future[list[list[Array]]]") -> None:
        """Let the outcome of a run be the answer to all who wait for it, and its slot be free."""
        try:
            answers = run.result()
        except Exception as error:  # noqa: BLE001 (whoever waits gets it, and logs it)
            for task in tasks:
                if not task.answer.done():
                    task.answer.set_exception(_own_copy(error))
        else:
            for task, answer in zip(tasks, answers, strict=True):
                if not task.answer.done():
                    task.answer.set_result(answer)
        servable.release()
        self._last_run_seconds = time.monotonic() - began
        self._free += 1
        self._run_over.set()
        self._dispatch()

    async def drained(self) -> None:
        """Wait until nothing runs and nothing waits."""
        while self._free < self._slots:
            self._run_over.clear()
            await self._run_over.wait()


def _parts(feeds: Feeds, sizes: Sequence[int]) -> Iterator[tuple[int, Feeds]]:
    """Cut a request into parts of so many rows."""
    if len(sizes) == 1:
        yield sizes[0], feeds
        return
    start = 0
    for size in sizes:
        yield size, {name: array[start : start + size] for name, array in feeds.items()}
        start += size


def _own_copy(error: Exception) -> Exception:
    """Give every caller an exception of its own: the traceback of a shared one would grow with each that raises it."""
    if isinstance(error, ServingError):
        return ServingError(error.code, error.message)
    internal = Internal("Running the model failed")
    internal.__cause__ = error
    return internal
