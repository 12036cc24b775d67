"""P3: the gateway's CPU time for a cache miss compared with decoding the image."""

import itertools
from pathlib import Path

from bench.baselines.cost import cpu_seconds_each
from bench.peers.pixels import decode
from bench.processes.stack import Stack
from bench.ratios.measured import Effort, Measured, facts
from bench.reporting.comparison import Comparison, interleaved


def measure(stack: Stack, effort: Effort) -> list[Comparison]:
    """Compare the gateway's CPU with a loop over Pillow, for photos; for 12-megapixel ones as well."""
    return [
        _compared(stack, effort, "P3", "gateway CPU per miss ÷ Pillow decode + resize in a loop", stack.corpus.photos),
        _compared(stack, effort, "P3 12 MP", "the same, photos of 12 megapixels", stack.corpus.large),
    ]


def _compared(stack: Stack, effort: Effort, key: str, what: str, paths: list[str]) -> Comparison:
    images = itertools.cycle([Path(path).read_bytes() for path in paths])
    spec = stack.manifest("lite0")["input"]
    missed: list[Measured] = []
    loops: list[float] = []
    interleaved(
        {
            "gateway": lambda: missed.append(stack.put(effort.seconds, images=paths, draw="cold")),
            "loop": lambda: loops.append(cpu_seconds_each(lambda: decode(next(images), spec), effort.seconds / 2)),
        },
        effort.rounds,
    )
    return Comparison(
        key,
        what,
        1.40,
        at_least=False,
        rounds=[run.cpu_of("gateway") / loop for run, loop in zip(missed, loops, strict=True)],
        facts={"loop CPU ms": [1e3 * loop for loop in loops], **facts([{"gateway": run} for run in missed], "gateway")},
    )
