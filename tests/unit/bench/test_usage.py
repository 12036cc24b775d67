"""CPU clocks of other processes."""

import subprocess
import sys

from bench.processes.usage import Watch, cpu_seconds, descendants

PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
CHILD = """
import time
while time.process_time() < 0.3:
    pass
print(1, flush=True)
input()
"""


def test_what_a_process_started_counts_as_its_own() -> None:
    """Servers with workers would otherwise seem to cost nothing."""
    words = [sys.executable, "-c", PARENT.format(child=CHILD)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        with Watch({"it": process.pid}) as watch:
            process.stdout.readline()
        assert 2 == len(descendants(process.pid))
        assert 0.2 < cpu_seconds(process.pid)
        assert 0.05 < watch.used["it"] <= cpu_seconds(process.pid)
        process.kill()


ITSELF = """
import os, time
from bench.processes.usage import cpu_seconds
print(time.process_time(), cpu_seconds(os.getpid()), time.process_time())
"""


def test_a_process_is_read_as_it_reads_itself() -> None:
    """The clock is the kernel's own, so both agree to what passes between two calls."""
    # A process of its own: this one has children, whose time would count.
    told = subprocess.run([sys.executable, "-c", ITSELF], capture_output=True, check=True, text=True).stdout
    before, measured, after = map(float, told.split())
    assert before <= measured <= after
