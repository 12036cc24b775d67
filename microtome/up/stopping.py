"""Ctrl-C, SIGTERM and a closed terminal: the first asks to stop, the second says at once."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequests:
    """What the user has asked for so far."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.at_once = asyncio.Event()

    def ask(self) -> None:
        """Count one request."""
        if self.asked.is_set():
            self.at_once.set()
        self.asked.set()


@contextmanager
def listening() -> Iterator[StopRequests]:
    """Turn signals into requests, on the running event loop, until the block ends."""
    loop = asyncio.get_running_loop()
    requests = StopRequests()
    # nohup and some init systems ignore SIGHUP for us on purpose.
    heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    for number in heard:
        loop.add_signal_handler(number, requests.ask)
    try:
        yield requests
    finally:
        for number in heard:
            loop.remove_signal_handler(number)
