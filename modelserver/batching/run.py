"""Run one batch: join the inputs, execute, split the outputs. Blocks, so it belongs in a thread."""

from collections.abc import Mapping, Sequence

import numpy as np

from modelserver.batching.limits import BatchLimits
from modelserver.engines.engine import LoadedModel
from modelserver.errors import FailedPrecondition, InvalidArgument
from modelserver.tensors.codec import Array

Feeds = Mapping[str, Array]


def count_rows(feeds: Feeds) -> int:
    """Return the first dimension that all inputs share.

    Raises:
        InvalidArgument: They have none, or do not share it.
    """
    if any(array.ndim == 0 for array in feeds.values()):
        raise InvalidArgument("Batching Run() input tensors must have at least one dimension")
    sizes = {array.shape[0] for array in feeds.values()}
    if len(sizes) != 1:
        raise InvalidArgument("Batching Run() input tensors must have equal 0th-dimension size")
    return int(sizes.pop())


def run_batch(
    model: LoadedModel, requests: Sequence[Feeds], fetches: Sequence[str], limits: BatchLimits | None
) -> list[list[Array]]:
    """Run several requests in one batch.

    Args:
        model: Executes the batch.
        requests: Their inputs, by tensor name; equal in names, element types, and all dimensions but the first unless
            ``limits`` has inputs padded.
        fetches: Tensor names.
        limits: How to pad; None runs the single request unchanged, whatever its shapes.

    Returns:
        Per request, one array per fetch.

    Raises:
        FailedPrecondition: An output has no row per input row.
        ServingError: The error of the runtime.
    """
    if limits is None:
        return [model.run(feeds, fetches) for feeds in requests]
    sizes = [count_rows(feeds) for feeds in requests]
    rows = limits.padded(sum(sizes))
    feeds = {name: _joined([feeds[name] for feeds in requests], rows) for name in requests[0]}
    outputs = model.run(feeds, fetches)
    for output in outputs:
        if np.ndim(output) == 0:
            raise FailedPrecondition("Batched output tensor has 0 dimensions")
        if len(output) != rows:
            raise FailedPrecondition(
                "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the input "
                "tensors"
            )
    ends = np.cumsum(sizes)
    return [[output[end - size : end] for output in outputs] for size, end in zip(sizes, ends, strict=True)]


def _joined(arrays: Sequence[Array], rows: int) -> Array:
    """Stack the requests' rows, and fill up with copies of the first row of the last request.

    That row is a valid input, which zeros might not be; the real server pads with the same.
    """
    if len({array.shape[1:] for array in arrays}) > 1:
        arrays = _widened(arrays)
    if missing := rows - sum(map(len, arrays)):
        last = next(array for array in reversed(arrays) if len(array))
        arrays = [*arrays, np.repeat(last[:1], missing, axis=0)]
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _widened(arrays: Sequence[Array]) -> list[Array]:
    """Pad arrays to the largest of each trailing dimension, each with its own first element."""
    largest = np.max([array.shape[1:] for array in arrays], axis=0)
    wide = []
    for array in arrays:
        missing = [(0, 0), *((0, int(size) - own) for size, own in zip(largest, array.shape[1:], strict=True))]
        filler = array.flat[0] if array.size else np.zeros((), array.dtype)[()]
        wide.append(np.pad(array, missing, constant_values=filler))
    return wide
