"""P8: the gain of frozen graphs in TensorFlow Serving's runtime."""

from bench.load.corpus import OUT
from bench.processes.stack import Stack
from bench.processes.worker import Worker
from bench.ratios.measured import Effort
from bench.reporting.comparison import Comparison

TARGETS = {"mobilenet_v2": ("MobileNetV2", 1.45), "resnet50": ("ResNet50", 1.2)}


def measure(_stack: Stack, effort: Effort) -> list[Comparison]:
    """Compare CPU seconds of the same batches in sessions over both kinds of SavedModel."""
    return [_compared(effort, model) for model in TARGETS]


def _compared(effort: Effort, model: str) -> Comparison:
    backbone, target = TARGETS[model]
    words = [backbone, str(OUT / "frozen" / model), str(effort.rounds + 2), str(effort.seconds / 2)]
    with Worker("bench.baselines.frozen", *words, quiet=True) as worker:
        rounds = worker.receive()["rounds"]
    return Comparison(
        f"P8 {model}",
        f"frozen export ÷ Keras' model.export(), images per CPU second, {backbone}, batch 8, one thread",
        target,
        at_least=True,
        rounds=[row["plain"] / row["frozen"] for row in rounds],
        facts={
            "frozen CPU ms": [1e3 * row["frozen"] for row in rounds],
            "model.export() CPU ms": [1e3 * row["plain"] for row in rounds],
        },
    )
