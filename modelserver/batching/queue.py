"""The queue of requests that may share a batch. Independent of threads, models and TensorFlow."""

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from modelserver.batching.limits import BatchLimits
from modelserver.errors import InvalidArgument, ResourceExhausted, Unavailable
from modelserver.tensors.codec import Array

_FULL = "The batch scheduling queue to which this task was submitted is full; "


@dataclass(eq=False, slots=True)
class Task:
    """One request, or a part of one, waiting.

    Attributes:
        feeds: Arrays by tensor name.
        rows: Their first dimension.
        arrived: Time of arrival, by ``time.monotonic``.
        deadline: Time, by ``time.monotonic``, after which it is not run, or None.
        answer: One array per fetch; cancelled when the caller disconnects.
    """

    feeds: Mapping[str, Array]
    rows: int
    arrived: float
    deadline: float | None
    answer: "asyncio.Future[list[Array]]"


@dataclass(eq=False, slots=True)
class Batch:
    """Requests that run together.

    Attributes:
        opened: Arrival of the first request, by ``time.monotonic``.
        tasks: The requests.
        rows: The sum of their rows.
    """

    opened: float
    tasks: list[Task] = field(default_factory=list)
    rows: int = 0

    def add(self, task: Task) -> None:
        """Add a request."""
        self.tasks.append(task)
        self.rows += task.rows

    def worth_running(self, now: float) -> list[Task]:
        """Return the requests to run: without cancelled ones, and with expired ones refused."""
        left = []
        for task in self.tasks:
            if task.answer.done():
                continue
            if task.deadline is not None and task.deadline <= now:
                task.answer.set_exception(ResourceExhausted("Run() timeout exceeded while waiting in batching queue"))
            else:
                left.append(task)
        return left


@dataclass(eq=False, slots=True)
class BatchQueue:
    """Batches in the order in which they run; the last is open.

    Attributes:
        limits: The size of batches, and the number that may wait.
    """

    limits: BatchLimits
    batches: deque[Batch] = field(default_factory=deque)

    @property
    def _open_rows(self) -> int:
        return self.batches[-1].rows if self.batches else 0

    def admit(self, rows: int) -> list[int]:
        """Find capacity for a request.

        Returns:
            The sizes of the parts to enqueue: one, unless large requests are split.

        Raises:
            InvalidArgument: It is larger than any request may be.
            Unavailable: The queue is full.
        """
        limits = self.limits
        if rows > limits.max_batch_size:
            raise InvalidArgument(f"Task size {rows} is larger than maximum input batch size {limits.max_batch_size}")
        if limits.splits:
            return self._split(rows)
        fits = self.batches and self._open_rows + rows <= limits.batch_size
        if not fits and len(self.batches) >= limits.max_enqueued_batches:
            raise Unavailable(
                f"{_FULL}currently {len(self.batches)} batches enqueued and "
                f"max_enqueued_batches is {limits.max_enqueued_batches}"
            )
        return [rows]

    def _split(self, rows: int) -> list[int]:
        """Fill the open batch first. As in the real server, an empty queue counts as one open, empty batch."""
        limits, enqueued = self.limits, max(len(self.batches), 1)
        room = limits.batch_size - self._open_rows
        capacity = max(limits.max_enqueued_batches - enqueued, 0) * limits.batch_size + room
        if rows > capacity:
            raise Unavailable(
                f"{_FULL}task size is {rows} but scheduling capacity is only {capacity} "
                f"(num_enqueued_batches={enqueued}, max_enqueued_batches={limits.max_enqueued_batches}, "
                f"open_batch_size={self._open_rows}, max_execution_batch_size={limits.batch_size})"
            )
        sizes = [min(room, rows)] if room else []
        while (left := rows - sum(sizes)) > 0:
            sizes.append(min(left, limits.batch_size))
        return sizes or [rows]

    def put(self, task: Task) -> None:
        """Add an admitted part to the open batch, or to a new one."""
        if not self.batches or self._open_rows + task.rows > self.limits.batch_size:
            self.batches.append(Batch(task.arrived))
        self.batches[-1].add(task)

    def leave(self, task: Task) -> None:
        """Remove a request whose caller disconnected before it ran."""
        for batch in self.batches:
            if task in batch.tasks:
                batch.tasks.remove(task)
                batch.rows -= task.rows
                break
        self.batches = deque(batch for batch in self.batches if batch.tasks)

    def ready_at(self, linger: float) -> float:
        """Return when to run the first batch: now when it cannot grow, else ``linger`` s after it opened."""
        if not self.batches or len(self.batches) > 1 or self._open_rows >= self.limits.batch_size:
            return 0.0
        return self.batches[0].opened + linger

    def take(self) -> Batch:
        """Remove and return the oldest batch; an empty queue gives an empty batch."""
        return self.batches.popleft() if self.batches else Batch(0.0)
