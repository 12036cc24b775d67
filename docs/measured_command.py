"""Run a command of Microtome and measure it, for the scripts in this folder."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that has ended.

    Attributes:
        seconds: Wall-clock time.
        cpu_seconds: Processor time on all cores.
        peak_bytes: Largest resident size.
        printed: Its standard output.
        failed: The reason of a failure, on one line; None if it ended with 0.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    printed: str
    failed: str | None

    @property
    def cost(self) -> dict[str, float]:
        """Times and memory, for a JSON file."""
        return {"seconds": self.seconds, "cpu_seconds": self.cpu_seconds, "peak_bytes": self.peak_bytes}


def microtome(arguments: Sequence[str]) -> Ran:
    """Run `microtome` until it ends."""
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as printed, tempfile.TemporaryFile("w+") as told:
        command = [sys.executable, "-m", "microtome", *arguments]
        process = subprocess.Popen(command, stdout=printed, stderr=told)  # noqa: S603 -- our own command
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - started
        told.seek(0)
        last = (told.read().strip().splitlines() or [f"ended with {process.returncode}"])[-1]
        printed.seek(0)
        return Ran(
            seconds=round(seconds, 3),
            cpu_seconds=round(usage.ru_utime + usage.ru_stime, 3),
            peak_bytes=usage.ru_maxrss * 1024,
            printed=printed.read(),
            failed=None if process.returncode == 0 else last.removeprefix("microtome: "),
        )
