"""P11: the saving of many images in one request compared with one request each."""

from bench.processes.stack import Measured, Stack
from bench.ratios.effort import Effort
from bench.reporting.comparison import Comparison, interleaved

IMAGES = 64


def measure(stack: Stack, effort: Effort) -> list[Comparison]:
    """Compare CPU seconds of all processes per image: cold, and for hits, where only requests cost time."""
    return [
        _compared(stack, effort, "P11", "CPU of 64 images in one request ÷ 64 requests, MobileNetV2, cold", "cold"),
        _compared(stack, effort, "P11 hits", "the same with memory hits", "warm"),
    ]


def _compared(stack: Stack, effort: Effort, key: str, what: str, draw: str) -> Comparison:
    def put(per_request: int, connections: int) -> Measured:
        options = {"path": "/embed?model=mobilenet_v2", "draw": draw, "per_request": per_request}
        return stack.put(stack.load(effort.seconds, connections=connections, **options))

    if draw == "warm":
        put(1, 8)
    rounds = interleaved({"one": lambda: put(IMAGES, 1), "many": lambda: put(1, 8)}, effort.rounds)
    return Comparison(
        key,
        what,
        0.80,
        at_least=False,
        rounds=[row["one"].cpu_per_image / row["many"].cpu_per_image for row in rounds],
        facts={
            "CPU ms per image, one request": [1e3 * row["one"].cpu_per_image for row in rounds],
            "CPU ms per image, 64 requests": [1e3 * row["many"].cpu_per_image for row in rounds],
            "gateway CPU ms, one request": [1e3 * row["one"].cpu_of("gateway") for row in rounds],
            "gateway CPU ms, 64 requests": [1e3 * row["many"].cpu_of("gateway") for row in rounds],
            "foreign": [row["one"].foreign for row in rounds],
        },
    )
