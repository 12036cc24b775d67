"""The CPU time of a loop."""

import time
from collections.abc import Callable


def cpu_seconds_each(work: Callable[[], object], seconds: float, size: int = 1) -> float:
    """Repeat work on `size` images for a while; return the CPU seconds of one image."""
    end = time.perf_counter() + seconds
    begin, done = time.process_time(), 0
    while time.perf_counter() < end:
        work()
        done += size
    return (time.process_time() - begin) / done
