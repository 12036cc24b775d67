"""Runs requests on a fixed number of threads, and batches those that wait for a thread.

Without a timeout from a file of batching parameters: while nothing runs, a request starts immediately; while others run
and a thread is free, it waits for further requests, for a tenth of the time that the last run took. Otherwise the first
request after a large batch runs alone, and runs of one image cost twice as much per image (of 500 runs for 16 clients
of one image each, 284 were of one image; waiting gives 5 % more images per second).

Bulk requests are batched apart, and wait while others have a batch to run: of four batches in a row that pass them, the
fifth is theirs.

Requests share a batch when they are for the same version, fetch the same outputs, and agree in element types and in
every dimension but the first. The real server batches across shapes and types and then fails every request of the
batch; here a request cannot fail the others of its batch.
"""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import Executor

import numpy as np

from modelserver.batching.limits import BatchLimits
from modelserver.batching.queue import Batch, BatchQueue, Task
from modelserver.batching.run import Feeds, count_rows, run_batch
from modelserver.batching.version import Version
from modelserver.errors import Internal, ServingError
from modelserver.metrics import Metrics
from modelserver.tensors.codec import Array

Kind = tuple[Version, tuple[str, ...], Hashable, bool]
"""Version, outputs, forms of the inputs, and whether they are bulk."""

MOST_PASSED = 4
"""Batches that may pass a bulk one that is ready."""

LINGER_SHARE = 0.1
"""The wait for further requests, as a share of the last run's time."""

LONGEST_LINGER = 0.01
"""The upper bound of that wait, in seconds."""

SHORTEST_DELAY = 0.001
"""Shortest delay of the timer, in seconds: uvloop counts whole milliseconds, and would fire continuously."""


class Scheduler:
    """Runs requests, taking the kinds in turn. Belongs to the event loop.

    Args:
        threads: Run models; as many as ``slots``.
        slots: The number of concurrent runs.
        metrics: Counts batches.
    """

    def __init__(self, threads: Executor, slots: int, metrics: Metrics) -> None:
        self._threads = threads
        self._slots = self._free = slots
        self._metrics = metrics
        self._queues: OrderedDict[Kind, BatchQueue] = OrderedDict()
        self._runs: set[asyncio.Task[None]] = set()
        self._last_run_seconds = 0.0
        self._passed = 0
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle = self._loop.call_later(0, lambda: None)

    async def run(
        self,
        version: Version,
        feeds: Feeds,
        fetches: Sequence[str],
        deadline: float | None = None,
        *,
        bulk: bool = False,
    ) -> list[Array]:
        """Compute tensors, in one batch with other requests of the same kind.

        Args:
            version: The version; it stays loaded until the run ends, even when the caller disconnects. Without
                ``limits`` the request runs by itself, and any number may wait.
            feeds: Arrays by tensor name.
            fetches: Tensor names.
            deadline: Time, by ``time.monotonic``, after which the request is not started.
            bulk: Whether requests that are not bulk go first.

        Returns:
            One array per fetch, in their order.

        Raises:
            InvalidArgument: The request cannot be batched, or is larger than a batch.
            Unavailable: The queue is full.
            ResourceExhausted: The deadline passed in the queue.
            ServingError: The error of the runtime.
        """
        tasks, queue = self._enqueue(version, feeds, tuple(fetches), deadline, bulk=bulk)
        version.acquire()
        try:
            self._dispatch()
            # Nearly every request is one part, and needs no gathering.
            answers = [await tasks[0].answer] if len(tasks) == 1 else await asyncio.gather(*(t.answer for t in tasks))
        except BaseException:
            for task in tasks:  # the parts that still wait
                task.answer.cancel()
                queue.leave(task)
            raise
        else:
            return answers[0] if len(answers) == 1 else [np.concatenate(parts) for parts in zip(*answers, strict=True)]
        finally:
            version.release()

    def _enqueue(
        self, version: Version, feeds: Feeds, fetches: tuple[str, ...], deadline: float | None, *, bulk: bool
    ) -> tuple[list[Task], BatchQueue]:
        """Enqueue a request, in several parts when it is large and the limits allow."""
        rows, now = count_rows(feeds) if version.limits else 1, time.monotonic()
        kind, queue = self._queue_for(version, feeds, fetches, bulk=bulk)
        tasks = []
        for size, part in _parts(feeds, queue.admit(rows)):
            tasks.append(Task(part, size, now, deadline, self._loop.create_future()))
            queue.put(tasks[-1])
        self._queues[kind] = queue
        if version.limits:
            for _ in feeds:
                self._metrics.enqueued(rows)
        return tasks, queue

    def _queue_for(
        self, version: Version, feeds: Feeds, fetches: tuple[str, ...], *, bulk: bool
    ) -> tuple[Kind, BatchQueue]:
        """Return the queue for requests of this kind; an empty queue is not kept."""
        limits = version.limits
        if limits is None:
            return (version, fetches, object(), bulk), BatchQueue(BatchLimits(1, 1))
        alike = tuple(
            (name, array.dtype, array.ndim if limits.pad_inputs else array.shape[1:]) for name, array in feeds.items()
        )
        kind = (version, fetches, alike, bulk)
        return kind, self._queues.get(kind) or BatchQueue(limits)

    def _dispatch(self) -> None:
        """Fill the free slots, with one batch of each kind in turn."""
        while self._free and (kind := self._next_kind()):
            queue = self._queues.pop(kind)
            version, fetches, _, _ = kind
            batch, now = queue.take(), time.monotonic()
            tasks = batch.worth_running(now)
            if queue.batches:
                self._queues[kind] = queue
            if version.limits:
                self._count(batch, tasks, version.limits, now)
            if tasks:
                self._free -= 1
                version.acquire()  # the callers may disconnect before the run ends
                run = asyncio.create_task(self._run(version, fetches, tasks))
                self._runs.add(run)
                run.add_done_callback(self._runs.discard)

    def _count(self, batch: Batch, tasks: Sequence[Task], limits: BatchLimits, now: float) -> None:
        for task in batch.tasks:
            self._metrics.dequeued(now - task.arrived)
        if tasks:
            rows = sum(task.rows for task in tasks)
            self._metrics.batch(rows, limits.padded(rows))

    def _next_kind(self) -> Kind | None:
        """Return the kind to run next; when all queues should wait for further requests, set the timer."""
        if not self._queues:
            return None
        now = time.monotonic()
        linger = min(LINGER_SHARE * self._last_run_seconds, LONGEST_LINGER) if self._free < self._slots else 0.0
        earliest = math.inf
        ready: dict[bool, Kind] = {}
        for kind, queue in self._queues.items():
            timeout, bulk = queue.limits.timeout, kind[-1]
            when = queue.ready_at(linger if timeout is None else timeout)
            if when <= now:
                ready.setdefault(bulk, kind)
            earliest = min(earliest, when)
        if ready:
            bulk = False not in ready or (len(ready) > 1 and self._passed >= MOST_PASSED)
            self._passed = self._passed + 1 if len(ready) > 1 and not bulk else 0
            return ready[bulk]
        self._timer.cancel()
        self._timer = self._loop.call_later(max(earliest - now, SHORTEST_DELAY), self._dispatch)
        return None

    async def _run(self, version: Version, fetches: Sequence[str], tasks: Sequence[Task]) -> None:
        """Run one batch on a thread, and give each request its part of the result."""
        began, requests = time.monotonic(), [task.feeds for task in tasks]
        try:
            answers = await self._loop.run_in_executor(
                self._threads, run_batch, version.model, requests, fetches, version.limits
            )
        except Exception as error:  # noqa: BLE001 (the requests get it, and log it)
            for task in tasks:
                if not task.answer.done():
                    task.answer.set_exception(_own_copy(error))
        else:
            for task, answer in zip(tasks, answers, strict=True):
                if not task.answer.done():
                    task.answer.set_result(answer)
        version.release()
        self._last_run_seconds = time.monotonic() - began
        self._free += 1
        self._dispatch()


def _parts(feeds: Feeds, sizes: Sequence[int]) -> Iterator[tuple[int, Feeds]]:
    """Split a request into parts of these sizes."""
    if len(sizes) == 1:
        yield sizes[0], feeds
        return
    start = 0
    for size in sizes:
        yield size, {name: array[start : start + size] for name, array in feeds.items()}
        start += size


def _own_copy(error: Exception) -> Exception:
    """Copy an exception for one caller: the traceback of a shared one would grow with each that raises it."""
    if isinstance(error, ServingError):
        return ServingError(error.message, error.code)
    internal = Internal("Running the model failed")
    internal.__cause__ = error
    return internal
