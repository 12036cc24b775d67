"""Print the current step, its progress, and the time left."""

import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

_TICK_SECONDS = 1.0


class Progress:
    """Report steps one after the other; the time left is the planned time at the pace seen so far.

    Args:
        plan: Seconds that each step is expected to take, in order.
    """

    def __init__(self, plan: Mapping[str, float]) -> None:
        self._plan = dict(plan)
        self._begun = 0
        self._done = 0.0
        self._spent = 0.0

    def left(self) -> float:
        """Seconds that the steps not yet done will take."""
        pace = self._spent / self._done if self._done else 1.0
        return (sum(self._plan.values()) - self._done) * pace

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Report one step while it runs; on a terminal, every second."""
        self._begun += 1
        planned, begin, over = self._plan[name], time.monotonic(), threading.Event()
        print(
            f"[{self._begun} of {len(self._plan)}] {name}, about {clock(planned)}; {clock(self.left())} left in all",
            flush=True,
        )
        ticker = threading.Thread(target=self._tick, args=(name, planned, over), daemon=True)
        ticker.start()
        try:
            yield
        finally:
            over.set()
            ticker.join()
            took = time.monotonic() - begin
            self._done += planned
            self._spent += took
            print(f"    {name} took {clock(took)}", flush=True)

    def _tick(self, name: str, planned: float, over: threading.Event) -> None:
        begin = time.monotonic()
        while sys.stdout.isatty() and not over.wait(_TICK_SECONDS):
            sys.stdout.write(f"\r\033[K    {name}: {clock(time.monotonic() - begin)} of about {clock(planned)}\r")
            sys.stdout.flush()


def clock(seconds: float) -> str:
    """Write minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
