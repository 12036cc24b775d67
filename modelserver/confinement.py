"""Keeps loading to one core while others are being served.

A load computes as much as it can: TensorFlow optimises the graph in the thread that loads, and warm-up runs use the
session's threads, one per core. Requests for other models would share every core with it. Threads begin on the cores
of the thread that makes them, so confining the thread that loads confines all that it brings about; when the load is
over they are let go. Not by priority: without privileges it cannot be given back, and these same threads compute for
requests afterwards. Before anything is served, loads may have all cores.

Only Linux can confine a thread; elsewhere nothing happens.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_THREADS = Path("/proc/self/task")


class Confinement:
    """Where loads may compute. Its blocks may be entered by several threads at a time."""

    def __init__(self) -> None:
        self._cores = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else set()
        self._confines = False
        self._inside = 0
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Confine the loads that begin from now on."""
        self._confines = len(self._cores) > 1

    @contextmanager
    def load(self) -> Iterator[None]:
        """Load in this block, with every thread that it makes on the last core."""
        if not self._confines:
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
                    self._let_go()

    def _let_go(self) -> None:
        for thread in _THREADS.iterdir():
            with suppress(ProcessLookupError):  # it has ended since
                os.sched_setaffinity(int(thread.name), self._cores)
