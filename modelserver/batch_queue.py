"""Requests of one kind, gathered into batches while they wait. Knows nothing of threads, models or TensorFlow."""

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from modelserver.batch_limits import BatchLimits
from modelserver.errors import InvalidArgument, ResourceExhausted, Unavailable
from modelserver.tensor_decoding import Array

_FULL = "The batch scheduling queue to which this task was submitted is full; "


@dataclass(eq=False, slots=True)
class Task:
    """One request, or a part of one, waiting.

    Attributes:
        feeds: Arrays by tensor name.
        rows: Their first dimension.
        arrived: When it came, by ``time.monotonic``.
        deadline: Time, by ``time.monotonic``, after which it is not worth running, or None.
        answer: Resolved with one array per fetch; cancelled when the caller goes.
    """

    feeds: Mapping[str, Array]
    rows: int
    arrived: float
    deadline: float | None
    answer: "asyncio.Future[list[Array]]"


@dataclass(eq=False, slots=True)
class Batch:
    """Requests that will run as one.

    Attributes:
        opened: When the first came, by ``time.monotonic``.
        tasks: All of them.
        rows: Their rows together.
    """

    opened: float
    tasks: list[Task] = field(default_factory=list)
    rows: int = 0

    def add(self, task: Task) -> None:
        """Take one more."""
        self.tasks.append(task)
        self.rows += task.rows

    def worth_running(self, now: float) -> list[Task]:
        """Leave out who has gone, and refuse who would be answered too late."""
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
    """Batches in the order they will run; the last is open.

    Attributes:
        limits: How large batches grow, and how many may wait.
    """

    limits: BatchLimits
    batches: deque[Batch] = field(default_factory=deque)

    @property
    def _open_rows(self) -> int:
        return self.batches[-1].rows if self.batches else 0

    def admit(self, rows: int) -> list[int]:
        """Find room for a request.

        Returns:
            The sizes of the parts that it is to be put in as: one, unless large requests are split.

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
        """Fill the open batch first. An empty queue counts as one open batch with nothing in it, as it does there."""
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
        """Add what was admitted to the open batch, or to a new one."""
        if not self.batches or self._open_rows + task.rows > self.limits.batch_size:
            self.batches.append(Batch(task.arrived))
        self.batches[-1].add(task)

    def leave(self, task: Task) -> None:
        """Give back the room of a request whose caller went before it ran."""
        for batch in self.batches:
            if task in batch.tasks:
                batch.tasks.remove(task)
                batch.rows -= task.rows
                break
        self.batches = deque(batch for batch in self.batches if batch.tasks)

    def ready_at(self, linger: float) -> float:
        """Tell when the first batch should run: at once when it can grow no more, else ``linger`` s after it opened."""
        if not self.batches or len(self.batches) > 1 or self._open_rows >= self.limits.batch_size:
            return 0.0
        return self.batches[0].opened + linger

    def take(self) -> Batch:
        """Take the batch that waited longest; it is closed now. An empty queue gives an empty batch."""
        return self.batches.popleft() if self.batches else Batch(0.0)
