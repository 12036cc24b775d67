"""`python -m bench`: measure the ratios that have targets, print a table, write the result. Always exits with 0."""

import argparse
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.load.corpus import OUT, make_corpus
from bench.processes.stack import Stack, running_stack
from bench.ratios import peers, precision, rows, throughput
from bench.ratios.measured import Effort
from bench.reporting.comparison import Comparison
from bench.reporting.results import Result, print_table, save

QUICK = Effort(rounds=3, seconds=1.5)
FULL = Effort(rounds=5, seconds=3.5)
_PROFILE_SECONDS = 10
_PROFILE_RATE = 400


@dataclass(frozen=True, slots=True)
class Measurement:
    """One of the questions.

    Attributes:
        measure: Returns the comparisons.
        fixed: Seconds it takes in addition to loads, for starts and warm-up.
        loads: Number of loads in a round.
        full_only: Whether it is left out of `make bench`.
    """

    measure: Callable[[Stack, Effort], list[Comparison]]
    fixed: float
    loads: float
    full_only: bool = False

    def seconds(self, effort: Effort) -> float:
        """Return the expected duration."""
        return self.fixed + self.loads * effort.rounds * effort.seconds


MEASUREMENTS: Mapping[str, Measurement] = {
    "hits": Measurement(rows.hits, 12.0, 5.0),
    "misses": Measurement(rows.misses, 4.0, 7.5),
    "throughput": Measurement(throughput.measure, 15.0, 6.0),
    "latency": Measurement(rows.latency, 5.0, 7.0),
    "mixed": Measurement(rows.mixed, 1.0, 2.2),
    "export": Measurement(rows.export, 20.0, 2.5),
    "start": Measurement(rows.start, 6.0, 0.1),
    "bulk": Measurement(rows.bulk, 8.0, 2.0),
    "priority": Measurement(rows.priority, 14.0, 8.0),
    "precision": Measurement(precision.measure, 40.0, 4.0),
    "peers": Measurement(peers.measure, 190.0, 15.0, full_only=True),
}


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


def main() -> None:
    """Measure what the options name."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure the ratios that have targets.")
    parser.add_argument("--full", action="store_true", help="more and longer rounds, other servers too (20 minutes)")
    parser.add_argument("--only", nargs="*", choices=MEASUREMENTS, help="some of them")
    parser.add_argument("--profile", action="store_true", help="draw flame graphs into bench/out/ instead")
    options = parser.parse_args()
    names = options.only or [name for name, each in MEASUREMENTS.items() if options.full or not each.full_only]
    corpus, effort = make_corpus(), FULL if options.full else QUICK
    result = Result.begin(corpus, effort, complete=options.full and not options.only)
    if not options.profile:
        planned = sum(MEASUREMENTS[name].seconds(effort) for name in names)
        print(f"{', '.join(names)}: about {clock(planned)} after the start of the servers", flush=True)
    try:
        with running_stack(corpus) as stack:
            if options.profile:
                profile(stack)
                return
            measure(stack, effort, names, result)
    except Exception as error:  # noqa: BLE001, a benchmark is no test: what has been measured is shown in any case
        traceback.print_exc()
        result.failed["the servers"] = said(error)
    print_table(result)
    if result.comparisons:
        print(f"\nwritten to {save(result)}")


def measure(stack: Stack, effort: Effort, names: list[str], result: Result) -> None:
    """Run measurements, saving after each; one that fails is reported and does not stop the others."""
    progress = Progress({name: MEASUREMENTS[name].seconds(effort) for name in names})
    for name in names:
        with progress.step(name):
            try:
                result.comparisons += MEASUREMENTS[name].measure(stack, effort)
                save(result)
            except Exception as error:  # noqa: BLE001, the others are worth having
                traceback.print_exc()
                result.failed[name] = said(error)


def profile(stack: Stack) -> None:
    """Write flame graphs as bench/out/profile-*.svg, or print that py-spy may not read other processes here."""
    stack.put(3.0)
    for name, draw, served in (
        ("memory-hits", "warm", stack.near),
        ("redis-hits", "warm", stack.far),
        ("misses", "cold", stack.near),
    ):
        path = OUT / f"profile-{name}.svg"
        options = f"--pid {served.gateway.pid} --duration {_PROFILE_SECONDS} --rate {_PROFILE_RATE} --nonblocking"
        words = [str(Path(sys.executable).with_name("py-spy")), "record", *options.split(), "--output", str(path)]
        with subprocess.Popen(words, stdout=subprocess.DEVNULL) as spy:
            stack.put(_PROFILE_SECONDS + 3.0, served, draw=draw)
            spy.wait()
        print(f"{name}: {path}" if spy.returncode == 0 else f"{name}: py-spy ended with {spy.returncode}")


def said(error: Exception) -> str:
    """Write an error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


if __name__ == "__main__":
    main()
