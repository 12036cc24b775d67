"""P3: the gateway's CPU time for a cache miss compared with decoding the image."""

from pathlib import Path

from bench.baselines.decode import seconds_per_image
from bench.processes.stack import Measured, Stack
from bench.ratios.effort import Effort
from bench.reporting.comparison import Comparison, interleaved

CONNECTIONS = 8


def measure(stack: Stack, effort: Effort) -> list[Comparison]:
    """Compare the gateway's CPU with a loop over Pillow, for photos; for 12-megapixel ones as well."""
    return [
        _compared(stack, effort, "P3", "gateway CPU per miss ÷ Pillow decode + resize in a loop", stack.corpus.photos),
        _compared(stack, effort, "P3 12 MP", "the same, photos of 12 megapixels", stack.corpus.large),
    ]


def _compared(stack: Stack, effort: Effort, key: str, what: str, paths: list[str]) -> Comparison:
    images = [Path(path).read_bytes() for path in paths]
    spec = stack.manifest("lite0")["input"]
    load = stack.load(effort.seconds, images=paths, draw="cold", connections=CONNECTIONS)
    missed: list[Measured] = []

    def gateway() -> float:
        missed.append(stack.put(load))
        return missed[-1].cpu_of("gateway")

    rounds = interleaved(
        {"gateway": gateway, "loop": lambda: seconds_per_image(images, spec, effort.seconds / 2)}, effort.rounds
    )
    return Comparison(
        key,
        what,
        1.40,
        at_least=False,
        rounds=[row["gateway"] / row["loop"] for row in rounds],
        facts={
            "gateway CPU ms": [1e3 * row["gateway"] for row in rounds],
            "loop CPU ms": [1e3 * row["loop"] for row in rounds],
            "model server CPU ms": [1e3 * each.cpu_of("model server") for each in missed],
            "images/s": [each.outcome.rate for each in missed],
            "foreign": [each.foreign for each in missed],
        },
    )
