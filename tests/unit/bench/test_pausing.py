"""Contestants that are not measured are stopped, and continue afterwards."""

import subprocess
import sys
from pathlib import Path

from bench.processes.pausing import paused
from bench.processes.usage import descendants
from tests.e2e.processes import eventually

ECHO = "import sys; [print(line, end='', flush=True) for line in sys.stdin]"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {ECHO!r}], check=True)"


def test_a_process_is_stopped_with_its_descendants_and_continues() -> None:
    """A server whose workers continued would not be paused."""
    words = [sys.executable, "-c", PARENT]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        print("before", file=process.stdin, flush=True)
        assert process.stdout.readline() == "before\n"
        with paused([process.pid], catch_up=0.0):
            family = descendants(process.pid)
            assert len(family) == 2
            eventually(lambda: {"T"} == {state(pid) for pid in family}, "both are stopped")
        print("after", file=process.stdin, flush=True)
        assert process.stdout.readline() == "after\n"
        process.stdin.close()


def state(pid: int) -> str:
    """The kernel's letter for what a process does."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
