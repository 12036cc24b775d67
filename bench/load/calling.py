"""A closed loop of blocking calls, each in a thread of its own, for loads on the model server by its gRPC stubs."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def calling(calls: Sequence[Callable[[], T]]) -> Iterator[list[tuple[float, float, T]]]:
    """Repeat calls while the block runs; yield what has been done: when it began, its seconds, and its result.

    Times are of `time.monotonic`. An error of a call ends its loop, and is raised after the block.
    """
    stop = threading.Event()
    done: list[tuple[float, float, T]] = []

    def repeat(call: Callable[[], T]) -> None:
        while not stop.is_set():
            began = time.monotonic()
            result = call()
            done.append((began, time.monotonic() - began, result))

    with ThreadPoolExecutor(len(calls)) as threads:
        loops = [threads.submit(repeat, call) for call in calls]
        try:
            yield done
        finally:
            stop.set()
        for loop in loops:
            loop.result()
