"""Ctrl-C, SIGTERM and a closed terminal: the first requests a stop, the second forces it."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequests:
    """What the user has requested so far.

    Attributes:
        requested: finish what is in flight and stop.
        forced: stop without waiting.
    """

    def __init__(self) -> None:
        self.requested = asyncio.Event()
        self.forced = asyncio.Event()

    def request(self) -> None:
        """Count one request; the second forces the stop."""
        if self.requested.is_set():
            self.forced.set()
        self.requested.set()


@contextmanager
def listening() -> Iterator[StopRequests]:
    """Turn signals into requests, on the running event loop, until the block ends."""
    loop = asyncio.get_running_loop()
    requests = StopRequests()
    # A parent such as nohup may have set SIGHUP to be ignored, which is kept.
    handled = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    for number in handled:
        loop.add_signal_handler(number, requests.request)
    try:
        yield requests
    finally:
        for number in handled:
            loop.remove_signal_handler(number)
