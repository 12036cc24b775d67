"""Which cores and how many threads compute: of an operation, and of a load while others are served.

A load computes as much as it can: TensorFlow optimises the graph in the loading thread, and warm-up runs use the
session's threads, one per core. Requests for other models would share every core with it. New threads inherit the cores
of their creator, so the loading thread is pinned to one core, and the pin is removed from all threads at the end of
the load. Priorities do not work: an unprivileged process cannot raise them again, and the same threads serve requests
afterwards. Loads before the server listens may use all cores.

Only Linux can pin a thread; on other systems nothing happens.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from modelserver.config.manifest import most_flops

LIGHT_FLOPS = 2e9
"""Up to this number of operations for one image, an operation is computed by one thread: each of a hundred layers is so
small that waking a second thread costs more than it saves (docs/decisions/performance.md)."""

_THREADS = Path("/proc/self/task")


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """How sessions compute.

    Attributes:
        intra_op_threads: Threads within an operation; 0 to choose for each model, see ``threads_within``.
        inter_op_threads: Operations at a time; 0 for as many as there are cores.
        mixed_precision: ``bfloat16``, or empty for float32.
        tags: Tags of the SavedModel's graph to load.
    """

    intra_op_threads: int = 0
    inter_op_threads: int = 0
    mixed_precision: str = ""
    tags: tuple[str, ...] = ("serve",)


def threads_within(directory: Path, most: int) -> int:
    """Return the number of threads for each operation of a version: one for a light network, else one per core.

    Args:
        directory: The version. Its manifest says how much it computes; a SavedModel without one gets one thread per
            core, as in TensorFlow Serving.
        most: The number of cores, counted where no load was pinned.
    """
    flops = most_flops(directory)
    return 1 if flops is not None and flops <= LIGHT_FLOPS else most


class LoadAffinity:
    """Pins loads to one core. Several threads may be inside its blocks at the same time."""

    def __init__(self) -> None:
        self._cores = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else set()
        self._pins = False
        self._inside = 0
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Pin the loads that begin from now on."""
        self._pins = len(self._cores) > 1

    @contextmanager
    def load(self) -> Iterator[None]:
        """Load in this block; the thread and all that it creates run on the last core."""
        if not self._pins:
            yield
            return
        with self._lock:
            self._inside += 1
            os.sched_setaffinity(0, {max(self._cores)})
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                os.sched_setaffinity(0, self._cores)
                if not self._inside:
                    for thread in _THREADS.iterdir():
                        with suppress(ProcessLookupError):  # it has ended since
                            os.sched_setaffinity(int(thread.name), self._cores)
