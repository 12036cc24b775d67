"""How many threads share an operation, where no flag says so."""

import os
from pathlib import Path

from modelserver.manifest import most_flops

LIGHT_FLOPS = 2e9
"""Operations for one image up to which it is not worth sharing them: a network of a hundred layers then has so little
to do in each that waking a second thread costs more than it saves (docs/decisions/performance.md)."""


def threads_within(directory: Path) -> int:
    """Return how many threads the operations of a version are to have: one for a light network, else one per core.

    Args:
        directory: The version. How much it computes stands in its manifest; of a SavedModel that has none nothing is
            known, so it gets one per core, as in TensorFlow Serving.
    """
    flops = most_flops(directory)
    return 1 if flops is not None and flops <= LIGHT_FLOPS else cores()


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
