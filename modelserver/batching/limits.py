"""How each version is batched: by the flags, by a file for all, or by a file of its own."""

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Self

from microtome.tfserving.v1.server_files_pb2 import BatchingParameters
from modelserver.config.manifest import max_batch_size, most_flops
from modelserver.config.options import Options
from modelserver.config.text_protos import read_file
from modelserver.errors import InvalidArgument

PER_MODEL_FILE = "batching_params.pbtxt"
ROWS_PER_THREAD = 4
"""Images that are computed at a time, for each thread that shares in it. Larger batches are not cheaper by the image,
but make the first caller wait for the last, and a large call next to a small one occupies its callers so long that no
batch reaches a good size (docs/decisions/performance.md)."""
THREAD_POOL_NAME = "model_server_batch_threads"


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Bounds of a batch and of the queues.

    Attributes:
        max_batch_size: Largest request, in rows.
        max_enqueued_batches: Number of batches that may wait in one queue.
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
        """The number of rows that fill a batch."""
        return self.largest_batch or self.max_batch_size

    def padded(self, rows: int) -> int:
        """Round a batch up to the next size that is allowed; an empty one has nothing to be padded with."""
        return rows and next((size for size in self.allowed_sizes if size >= rows), rows)

    @classmethod
    def of(cls, message: BatchingParameters) -> Self:
        """Read a ``BatchingParameters`` message; the defaults are the real server's.

        Raises:
            InvalidArgument: The parameters contradict each other; TensorFlow Serving, too, finds out when it loads a
                version.
        """
        limits = cls(
            max_batch_size=message.max_batch_size.value if message.HasField("max_batch_size") else 1000,
            max_enqueued_batches=message.max_enqueued_batches.value if message.HasField("max_enqueued_batches") else 10,
            timeout=message.batch_timeout_micros.value / 1e6,
            allowed_sizes=tuple(message.allowed_batch_sizes),
            pad_inputs=message.pad_variable_length_inputs,
            splits=message.enable_large_batch_splitting.value,
            largest_batch=_optional(message, "max_execution_batch_size"),
        )
        limits._check(message.batch_timeout_micros.value)
        if limits.splits:
            return limits
        # Many files say 0 batches and mean "as few as possible"; the real server reads it as 1.
        return replace(limits, max_enqueued_batches=max(limits.max_enqueued_batches, 1), largest_batch=None)

    def _check(self, timeout_micros: int) -> None:
        sizes, largest = self.allowed_sizes, self.max_batch_size
        if largest < 1:
            raise InvalidArgument(f"input_batch_size_limit must be positive; was {largest}")
        if timeout_micros < 0:
            raise InvalidArgument(f"batch_timeout_micros must be non-negative; was {timeout_micros}")
        if sizes and sizes[-1] != largest:
            raise InvalidArgument(
                f"Last entry in allowed_batch_sizes must match max_batch_size; last entry was {sizes[-1]}; "
                f"expected {largest}"
            )
        if sizes and (sizes[0] < 1 or any(size >= after for size, after in pairwise(sizes))):
            raise InvalidArgument(
                f"Expected allowed_batch_sizes to be positive and to increase. Received: {list(sizes)}"
            )
        if self.splits and self.max_enqueued_batches < 1:
            raise InvalidArgument(f"max_enqueued_batches must be positive; was {self.max_enqueued_batches}")
        if self.splits and self.largest_batch is not None and not 1 <= self.largest_batch <= largest:
            raise InvalidArgument(
                "When enable_large_batch_splitting is true, input_batch_size_limit must be greater than or equal to "
                f"max_execution_batch_size. Received: {largest} and {self.largest_batch}"
            )

    def in_parts(self, threads: int) -> Self:
        """Return limits that queue as many rows, but compute few of them at a time, without waiting for others."""
        rows = ROWS_PER_THREAD * threads
        if rows >= self.max_batch_size:
            return self
        batches = self.max_enqueued_batches * -(-self.max_batch_size // rows)
        return replace(self, max_enqueued_batches=batches, timeout=0.0, splits=True, largest_batch=rows)


@dataclass(frozen=True, slots=True)
class Batching:
    """The flags of batching.

    Attributes:
        enabled: Whether anything is batched.
        parameters: The ``BatchingParameters`` of the file for all models; None when there is no file.
        per_model: Whether each version has a file of its own.
    """

    enabled: bool = False
    parameters: BatchingParameters | None = None
    per_model: bool = False

    @property
    def threads(self) -> int | None:
        """The number of batches that may run at a time, of all models together; None when the file does not say."""
        return _optional(self.parameters, "num_batch_threads")

    @property
    def thread_pool_name(self) -> str:
        """The name of the threads that run batches."""
        if self.parameters is None:
            return THREAD_POOL_NAME
        return self.parameters.thread_pool_name.value or "batch_threads"

    def limits_for(self, version_dir: Path, threads: int) -> BatchLimits | None:
        """Return how a version is batched.

        Without any file, the version's manifest has the bound: the real server, which knows no manifests, has 1,000.
        A version whose manifest says what an image costs is computed in parts.

        Args:
            version_dir: The version's directory.
            threads: The number of threads that compute one of its batches.

        Returns:
            Its limits, or None when every request runs by itself.

        Raises:
            InvalidArgument: A file is wrong; the version cannot be loaded.
        """
        if not self.enabled:
            return None
        if self.per_model:
            path = version_dir / PER_MODEL_FILE
            return BatchLimits.of(read_file(path, BatchingParameters)) if path.is_file() else None
        if self.parameters:
            return BatchLimits.of(self.parameters)
        size = max_batch_size(version_dir)
        limits = BatchLimits(size) if size else BatchLimits()
        return limits if most_flops(version_dir) is None else limits.in_parts(threads)


def read_batching(options: Options) -> Batching:
    """Read the flags, and the file that they name.

    Raises:
        InvalidArgument: The file is not a ``BatchingParameters``, or is given without ``--enable_batching``.
    """
    file = options.batching_parameters_file
    if file and not options.enable_batching:
        raise InvalidArgument(
            "server_options.batching_parameters_file is set without setting server_options.enable_batching to true."
        )
    parameters = read_file(file, BatchingParameters) if file else None
    batching = Batching(options.enable_batching, parameters, options.enable_per_model_batching_parameters)
    if batching.threads is not None and batching.threads < 1:
        raise InvalidArgument(f"num_batch_threads must be positive; was {batching.threads}")
    return batching


def _optional(message: BatchingParameters | None, field: str) -> int | None:
    """Return the value of a wrapped field; None when it is absent."""
    return getattr(message, field).value if message and message.HasField(field) else None
