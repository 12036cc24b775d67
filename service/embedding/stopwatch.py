"""Time a stage of a request and tell the observer."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from service.embedding.ports import Observer


@contextmanager
def timed(observer: Observer, stage: str) -> Iterator[None]:
    """Report how long the block took, also when it fails: slow failures are the ones worth seeing."""
    start = perf_counter()
    try:
        yield
    finally:
        observer.stage(stage, perf_counter() - start)
