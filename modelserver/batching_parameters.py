"""``BatchingParameters``, TensorFlow Serving's own description of how to batch.

Most of its fields are wrapped (``max_batch_size { value: 32 }``), two are not (``allowed_batch_sizes: 8``).
"""

from dataclasses import dataclass

from modelserver.text_form import read

_FIELDS = (
    (1, "max_batch_size", "Int64Value"),
    (2, "batch_timeout_micros", "Int64Value"),
    (3, "max_enqueued_batches", "Int64Value"),
    (4, "num_batch_threads", "Int64Value"),
    (5, "thread_pool_name", "StringValue"),
    (6, "allowed_batch_sizes", "repeated int64"),
    (7, "pad_variable_length_inputs", "bool"),
    (8, "enable_large_batch_splitting", "BoolValue"),
    (9, "max_execution_batch_size", "Int64Value"),
)


@dataclass(frozen=True, slots=True)
class BatchingParameters:
    """What the text said; the defaults are the real server's.

    Attributes:
        max_batch_size: Largest request, in rows, and without splitting the largest batch.
        batch_timeout_micros: Age at which a free thread takes a batch that is not full; 0 as soon as one is free.
        max_enqueued_batches: How many batches may wait in one queue.
        num_batch_threads: How many batches run at a time, of all models together; None for one per core.
        thread_pool_name: What those threads are called.
        allowed_batch_sizes: Sizes that batches are padded to.
        pad_variable_length_inputs: Whether inputs of different trailing dimensions share a batch.
        enable_large_batch_splitting: Whether a request may be divided over several batches.
        max_execution_batch_size: Largest batch when it may; None for ``max_batch_size``.
    """

    max_batch_size: int = 1000
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    num_batch_threads: int | None = None
    thread_pool_name: str = "batch_threads"
    allowed_batch_sizes: tuple[int, ...] = ()
    pad_variable_length_inputs: bool = False
    enable_large_batch_splitting: bool = False
    max_execution_batch_size: int | None = None


def parse_parameters(text: str) -> BatchingParameters:
    """Read the text form of the message.

    Raises:
        BadText: Unknown fields, a wrapped value that is not, or text that is no protobuf.
    """
    message = read(text, "BatchingParameters", {"BatchingParameters": _FIELDS})
    wrapped = [name for _, name, kind in _FIELDS if kind.endswith("Value")]
    return BatchingParameters(
        allowed_batch_sizes=tuple(message.allowed_batch_sizes),
        pad_variable_length_inputs=message.pad_variable_length_inputs,
        **{name: getattr(message, name).value for name in wrapped if message.HasField(name)},
    )
