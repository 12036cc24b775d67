"""Pause contestants while another one is measured, since some of them poll when idle.

LitServe's idle workers take 0.26 of a core, Ray Serve 0.14; our own processes with three models took 0.09 while an idle
model was tried every few seconds.
"""

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from bench.processes.usage import descendants

T = TypeVar("T")

CATCH_UP_SECONDS = 1.0
"""Time for delayed work: the gateway has missed a status of its model server, and asks again."""


@contextmanager
def paused(pids: Iterable[int], catch_up: float = CATCH_UP_SECONDS) -> Iterator[None]:
    """Stop processes and their descendants while the block runs; then wait until they have caught up."""
    stopped = [process for pid in pids for process in descendants(pid)]
    _signal(stopped, signal.SIGSTOP)
    try:
        yield
    finally:
        _signal(stopped, signal.SIGCONT)
        time.sleep(catch_up)


def alone(run: Callable[[], T], others: Iterable[int]) -> Callable[[], T]:
    """Return a function that runs while the others are paused."""
    pids = list(others)

    def quiet() -> T:
        with paused(pids):
            return run()

    return quiet


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
