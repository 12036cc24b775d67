"""P11: the saving of many images in one request compared with one request each."""

from bench.processes.stack import Stack
from bench.ratios.measured import Effort, Measured, facts
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
        return stack.cold(effort.seconds, "mobilenet_v2", draw=draw, per_request=per_request, connections=connections)

    if draw == "warm":
        put(1, 8)
    one, many = "one request", f"{IMAGES} requests"
    rounds = interleaved({one: lambda: put(IMAGES, 1), many: lambda: put(1, 8)}, effort.rounds)
    ratios = [row[one].cpu_per_image / row[many].cpu_per_image for row in rounds]
    return Comparison(key, what, 0.80, at_least=False, rounds=ratios, facts=facts(rounds, one, many, one))
