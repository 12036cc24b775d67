"""Contestants that rest while another one is measured, so that whoever polls when idle costs nobody anything.

LitServe's idle workers take 0.26 of a core, Ray Serve 0.14; our own processes with three models took 0.09 while an idle
model was tried every few seconds.
"""

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from bench.cpu import descendants

T = TypeVar("T")

CATCH_UP_SECONDS = 1.0
"""For what was due meanwhile: the gateway, for one, has lost a status of its model server, and asks again."""


@contextmanager
def resting(pids: Iterable[int], catch_up: float = CATCH_UP_SECONDS) -> Iterator[None]:
    """Stop processes, and all that they started, while the block runs; then wait until they have caught up."""
    stopped = [process for pid in pids for process in descendants(pid)]
    _signal(stopped, signal.SIGSTOP)
    try:
        yield
    finally:
        _signal(stopped, signal.SIGCONT)
        time.sleep(catch_up)


def alone(run: Callable[[], T], others: Iterable[int]) -> Callable[[], T]:
    """Return what runs while the others rest."""
    pids = list(others)

    def quiet() -> T:
        with resting(pids):
            return run()

    return quiet


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
