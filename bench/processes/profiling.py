"""Flame graphs of the gateway under hits and under misses, by py-spy."""

import subprocess
import sys
from pathlib import Path

from bench.load.corpus import OUT
from bench.processes.stack import Stack

SECONDS = 10
RATE = 400


def profile(stack: Stack) -> None:
    """Write bench/out/profile-*.svg, or print that py-spy may not read other processes here."""
    stack.put(3.0)
    for name, draw, served in (
        ("memory-hits", "warm", stack.near),
        ("redis-hits", "warm", stack.far),
        ("misses", "cold", stack.near),
    ):
        path = OUT / f"profile-{name}.svg"
        options = f"record --pid {served.gateway.pid} --duration {SECONDS} --rate {RATE} --nonblocking --output"
        words = [str(Path(sys.executable).with_name("py-spy")), *options.split(), str(path)]
        with subprocess.Popen(words, stdout=subprocess.DEVNULL) as spy:
            stack.put(SECONDS + 3.0, served, draw=draw)
            spy.wait()
        print(f"{name}: {path}" if spy.returncode == 0 else f"{name}: py-spy ended with {spy.returncode}")
