"""Runs one batch: joins the inputs, executes, splits the outputs. Blocks, so it belongs in a thread."""

from collections.abc import Mapping, Sequence

import numpy as np

from modelserver.engine import LoadedModel
from modelserver.errors import FailedPrecondition, InvalidArgument
from modelserver.tensor_decoding import Array

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


def run_batch(model: LoadedModel, mates: Sequence[Feeds], fetches: Sequence[str]) -> list[list[Array]]:
    """Run several requests at once.

    Args:
        model: What executes them.
        mates: Their inputs, by tensor name; equal in names, element types and all dimensions but the first.
        fetches: Tensor names.

    Returns:
        Per request, one array per fetch.

    Raises:
        FailedPrecondition: An output has no row per input row.
        ServingError: What the runtime said.
    """
    feeds = {name: np.concatenate([feeds[name] for feeds in mates]) if len(mates) > 1 else mates[0][name]
             for name in mates[0]}  # fmt: skip
    outputs = model.run(feeds, fetches)
    sizes = [count_rows(feeds) for feeds in mates]
    for output in outputs:
        _check_batch_major(output, sum(sizes))
    ends = np.cumsum(sizes)
    return [[output[end - size : end] for output in outputs] for size, end in zip(sizes, ends, strict=True)]


def run_alone(model: LoadedModel, mates: Sequence[Feeds], fetches: Sequence[str]) -> list[list[Array]]:
    """Run each request by itself, whatever its shapes; the same interface as ``run_batch``."""
    return [model.run(feeds, fetches) for feeds in mates]


def _check_batch_major(output: Array, rows: int) -> None:
    if np.ndim(output) == 0:
        raise FailedPrecondition("Batched output tensor has 0 dimensions")
    if len(output) != rows:
        raise FailedPrecondition(
            "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the input "
            "tensors"
        )
