"""Requests of one kind, gathered into batches while they wait. Knows nothing of threads, models or TensorFlow."""

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from modelserver.errors import InvalidArgument, ResourceExhausted, Unavailable
from modelserver.tensor_decoding import Array


@dataclass(eq=False, slots=True)
class Task:
    """One request, waiting.

    Attributes:
        feeds: Arrays by tensor name.
        rows: Their first dimension.
        deadline: Time on the loop's clock after which it is not worth running, or None.
        answer: Resolved with one array per fetch; cancelled when the caller goes.
    """

    feeds: Mapping[str, Array]
    rows: int
    deadline: float | None
    answer: "asyncio.Future[list[Array]]"


@dataclass(eq=False, slots=True)
class Batch:
    """Requests that will run as one.

    Attributes:
        opened: When the first came, on the loop's clock.
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
        max_batch_size: Largest batch, and so largest request, in rows.
        max_batches: How many batches may wait.
    """

    max_batch_size: int
    max_batches: int
    batches: deque[Batch] = field(default_factory=deque)

    def put(self, task: Task, now: float) -> None:
        """Find a batch for a request.

        Raises:
            InvalidArgument: It is larger than any batch.
            Unavailable: All batches are full.
        """
        if task.rows > self.max_batch_size:
            raise InvalidArgument(
                f"Task size {task.rows} is larger than maximum input batch size {self.max_batch_size}"
            )
        if not self.batches or self.batches[-1].rows + task.rows > self.max_batch_size:
            if len(self.batches) >= self.max_batches:
                raise Unavailable(
                    "The batch scheduling queue to which this task was submitted is full; currently "
                    f"{len(self.batches)} batches enqueued and max_enqueued_batches is {self.max_batches}"
                )
            self.batches.append(Batch(now))
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
        if not self.batches or len(self.batches) > 1 or self.batches[0].rows >= self.max_batch_size:
            return 0.0
        return self.batches[0].opened + linger

    def take(self) -> Batch:
        """Take the batch that waited longest; it is closed now. An empty queue gives an empty batch."""
        return self.batches.popleft() if self.batches else Batch(0.0)
