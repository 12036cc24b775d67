"""The bounds of a model's batches and queues, checked as TensorFlow Serving checks them when it loads a version."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Self

from modelserver.batching_parameters import BatchingParameters
from modelserver.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Bounds of a batch and of the queues.

    Attributes:
        max_batch_size: Largest request, in rows.
        max_enqueued_batches: How many batches may wait in one queue.
        timeout: Age in seconds at which a batch that is not full is run; None leaves it to the scheduler.
        allowed_sizes: Sizes that batches are padded to, rising; empty for any.
        pad_inputs: Whether inputs that differ in trailing dimensions share a batch, padded to the largest.
        splits: Whether a request may be divided over several batches.
        largest_batch: Largest batch, in rows; None for ``max_batch_size``.
    """

    max_batch_size: int = 64
    max_enqueued_batches: int = 10
    timeout: float | None = None
    allowed_sizes: tuple[int, ...] = ()
    pad_inputs: bool = False
    splits: bool = False
    largest_batch: int | None = None

    @property
    def batch_size(self) -> int:
        """How many rows fill a batch."""
        return self.largest_batch or self.max_batch_size

    def padded(self, rows: int) -> int:
        """Round a batch up to the next size that is allowed; one of no rows has nothing to be padded with."""
        return rows and next((size for size in self.allowed_sizes if size >= rows), rows)

    @classmethod
    def of(cls, parameters: BatchingParameters) -> Self:
        """Take over what a file of parameters says.

        Raises:
            InvalidArgument: The parameters contradict each other; the version that they are for cannot be loaded.
        """
        _check(parameters)
        splits = parameters.enable_large_batch_splitting
        return cls(
            max_batch_size=parameters.max_batch_size,
            # Many configurations say 0 there and mean "as few as possible"; the real server reads it as 1.
            max_enqueued_batches=max(parameters.max_enqueued_batches, 1),
            timeout=parameters.batch_timeout_micros / 1e6,
            allowed_sizes=parameters.allowed_batch_sizes,
            pad_inputs=parameters.pad_variable_length_inputs,
            splits=splits,
            largest_batch=parameters.max_execution_batch_size if splits else None,
        )


def _check(parameters: BatchingParameters) -> None:
    sizes, largest = parameters.allowed_batch_sizes, parameters.max_batch_size
    if largest < 1:
        raise InvalidArgument(f"input_batch_size_limit must be positive; was {largest}")
    if parameters.batch_timeout_micros < 0:
        raise InvalidArgument(f"batch_timeout_micros must be non-negative; was {parameters.batch_timeout_micros}")
    if sizes and sizes[-1] != largest:
        raise InvalidArgument(
            f"Last entry in allowed_batch_sizes must match max_batch_size; last entry was {sizes[-1]}; "
            f"expected {largest}"
        )
    if sizes and (sizes[0] < 1 or any(size >= after for size, after in pairwise(sizes))):
        raise InvalidArgument(f"Expected allowed_batch_sizes to be positive and to increase. Received: {list(sizes)}")
    if not parameters.enable_large_batch_splitting:
        return
    if parameters.max_enqueued_batches < 1:
        raise InvalidArgument(f"max_enqueued_batches must be positive; was {parameters.max_enqueued_batches}")
    if parameters.max_execution_batch_size is not None and not 1 <= parameters.max_execution_batch_size <= largest:
        raise InvalidArgument(
            "When enable_large_batch_splitting is true, input_batch_size_limit must be greater than or equal to "
            f"max_execution_batch_size. Received: {largest} and {parameters.max_execution_batch_size}"
        )
