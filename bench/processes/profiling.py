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
    loads = {
        "memory-hits": (stack.load(SECONDS + 3.0, draw="warm"), stack.gateway),
        "redis-hits": (stack.load(SECONDS + 3.0, draw="warm", port=stack.far_gateway.port), stack.far_gateway),
        "misses": (stack.load(SECONDS + 3.0, draw="cold"), stack.gateway),
    }
    stack.put(stack.load(3.0))
    for name, (load, gateway) in loads.items():
        path = OUT / f"profile-{name}.svg"
        options = f"record --pid {gateway.pid} --duration {SECONDS} --rate {RATE} --nonblocking --output"
        words = [str(Path(sys.executable).with_name("py-spy")), *options.split(), str(path)]
        with subprocess.Popen(words, stdout=subprocess.DEVNULL) as spy:
            stack.put(load, gateway)
            spy.wait()
        print(f"{name}: {path}" if spy.returncode == 0 else f"{name}: py-spy ended with {spy.returncode}")
