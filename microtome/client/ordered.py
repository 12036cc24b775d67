"""Work on many things at a time and hand the results out in order, holding only so many at once.

Nothing is read ahead of the window, so an endless iterable takes no more memory than a short one.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

WINDOW = 2
"""Things begun or waiting to be handed out, for each worker: while the oldest is slow, the others go on."""


def in_order(things: Iterable[T], work: Callable[[T], R], workers: int, stopped: threading.Event) -> Iterator[R]:
    """Work in threads.

    When the caller stops early, what has not begun is dropped, `stopped` is set for what has, and that is waited for: a
    thread that outlives its call would use connections that its caller closes.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="microtome-client")
    begun: deque[Future[R]] = deque()
    try:
        for thing in things:
            begun.append(pool.submit(work, thing))
            while begun and (len(begun) >= WINDOW * workers or begun[0].done()):
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        stopped.set()
        pool.shutdown(wait=True, cancel_futures=True)


def batches(things: Iterable[T], size: int) -> Iterator[list[T]]:
    """Cut an iterable into lists of `size`; the last may be shorter."""
    iterator = iter(things)
    while batch := list(islice(iterator, size)):
        yield batch
