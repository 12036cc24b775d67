"""Print the current step, its progress, and the time left."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


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
        """Report one step when it begins and when it ends."""
        self._begun += 1
        planned, begin = self._plan[name], time.monotonic()
        print(
            f"[{self._begun} of {len(self._plan)}] {name}, about {clock(planned)}; {clock(self.left())} left in all",
            flush=True,
        )
        try:
            yield
        finally:
            took = time.monotonic() - begin
            self._done += planned
            self._spent += took
            print(f"    {name} took {clock(took)}", flush=True)


def clock(seconds: float) -> str:
    """Write minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
