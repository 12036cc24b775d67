"""CPU time and memory of processes with their children, and the CPU time of all other processes."""

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def descendants(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    found = [pid]
    for parent in found:
        with suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
    return found


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and its living descendants so far, to the nanosecond.

    Linux numbers a process' CPU clock after its id (clock_getcpuclockid(3)); /proc would give hundredths of a second.
    """
    return sum(_clock(process) for process in descendants(pid))


def resident_megabytes(pid: int) -> float:
    """Return the resident memory of a process (VmRSS), in 10^6 bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmRSS:"))


def machine_seconds() -> tuple[float, float]:
    """Return the seconds of all cores since the machine started: busy, and in total."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    ticks = [int(field) for field in fields]
    idle = ticks[3] + ticks[4]
    return (sum(ticks) - idle) / _TICKS, sum(ticks) / _TICKS


class Watch:
    """Measure the CPU time of named processes, and of the rest of the machine, while a block runs."""

    def __init__(self, pids: dict[str, int], ours: Iterable[int] = ()) -> None:
        self._pids = pids
        self._ours = [*pids.values(), *ours, os.getpid()]
        self.used: dict[str, float] = {}
        """CPU seconds by name."""
        self.foreign = 0.0
        """The part of the machine that other processes used."""

    def __enter__(self) -> "Watch":
        self._before = {name: cpu_seconds(pid) for name, pid in self._pids.items()}
        self._ours_before = {pid: _clock(pid) for pid in self._watched()}
        self._machine = machine_seconds()
        return self

    def __exit__(self, *_: object) -> None:
        busy, passed = (now - before for now, before in zip(machine_seconds(), self._machine, strict=True))
        ours = sum(_clock(pid) - self._ours_before.get(pid, 0.0) for pid in self._watched())
        self.used = {name: cpu_seconds(pid) - self._before[name] for name, pid in self._pids.items()}
        self.foreign = max(0.0, (busy - ours) / passed) if passed else 0.0

    def _watched(self) -> set[int]:
        return {process for pid in self._ours for process in descendants(pid)}


def _clock(pid: int) -> float:
    try:
        return time.clock_gettime(~pid << 3 | 2)
    except OSError:
        return 0.0
