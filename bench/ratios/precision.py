"""P9: throughput of bfloat16, JPEG in, vector out, and its effect on the vectors, for both engines."""

from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.processes.served import Served, serving
from bench.processes.stack import Measured, Stack
from bench.ratios.effort import Effort
from bench.reporting.comparison import Comparison, interleaved

MODEL = "resnet50"
CONNECTIONS = 32
COMPARED = 16
"""Photos whose vectors are compared."""
FLAGS = ("avx512_bf16", "amx_bf16")
ENGINES = {"tensorflow": "P9", "openvino": "P9 OpenVINO"}
WHAT = "bfloat16 ÷ float32, images/s of ResNet50, cold, {engine} engine"
_PRECISIONS = {"float32": "--mixed_precision=", "bfloat16": "--mixed_precision=bfloat16"}


def measure(stack: Stack, effort: Effort) -> list[Comparison]:
    """Compare both precisions with either engine; where the processor has no bfloat16, say so."""
    if not able(Path("/proc/cpuinfo").read_text()):
        reason = f"/proc/cpuinfo shows neither {' nor '.join(FLAGS)}"
        return [_unmeasured(engine, reason) for engine in ENGINES]
    found = []
    for engine in ENGINES:
        try:
            found += _compared(stack, effort, engine)
        except AssertionError as error:  # one of its servers did not start
            found.append(_unmeasured(engine, " ".join(str(error).split())[:300]))
    return found


def able(cpuinfo: str) -> bool:
    """Whether a processor multiplies in bfloat16, from its /proc/cpuinfo."""
    return bool(set(FLAGS) & set(cpuinfo.split()))


def _compared(stack: Stack, effort: Effort, engine: str) -> list[Comparison]:
    with ExitStack() as ends:
        served = {
            name: ends.enter_context(serving(stack, MODEL, f"--engine={engine}", option))
            for name, option in _PRECISIONS.items()
        }
        cosines = _cosines(stack, served["float32"], served["bfloat16"])

        def put(name: str) -> Measured:
            return served[name].put(served[name].cold(effort.seconds, CONNECTIONS))

        for each in served.values():
            each.put(each.cold(1.0, CONNECTIONS))
        rounds = interleaved({"float32": lambda: put("float32"), "bfloat16": lambda: put("bfloat16")}, effort.rounds)
    return [_speed(engine, rounds), _likeness(engine, cosines)]


def _unmeasured(engine: str, reason: str) -> Comparison:
    return Comparison(ENGINES[engine], WHAT.format(engine=engine), 1.5, at_least=True, rounds=[], reason=reason)


def _speed(engine: str, rounds: list[dict[str, Measured]]) -> Comparison:
    facts: dict[str, list[float]] = {}
    for name in _PRECISIONS:
        facts[f"images/s, {name}"] = [row[name].outcome.rate for row in rounds]
        facts[f"gateway CPU ms, {name}"] = [1e3 * row[name].cpu_of("gateway") for row in rounds]
        facts[f"model server CPU ms, {name}"] = [1e3 * row[name].cpu_of("model server") for row in rounds]
    return Comparison(
        ENGINES[engine],
        WHAT.format(engine=engine),
        1.5,
        at_least=True,
        rounds=[row["bfloat16"].outcome.rate / row["float32"].outcome.rate for row in rounds],
        by_cpu=[row["float32"].cpu_per_image / row["bfloat16"].cpu_per_image for row in rounds],
        facts={**facts, "foreign": [row["float32"].foreign for row in rounds]},
    )


def _likeness(engine: str, cosines: list[float]) -> Comparison:
    return Comparison(
        f"{ENGINES[engine]} cosine",
        f"cosine of bfloat16's vectors to float32's, {len(cosines)} photos, random weights, {engine} engine",
        0.9999,
        at_least=True,
        rounds=cosines,
        digits=6,
    )


def _cosines(stack: Stack, one: Served, other: Served) -> list[float]:
    found = []
    for path in stack.corpus.photos[:COMPARED]:
        image = Path(path).read_bytes()
        mine, theirs = _vector(one, image), _vector(other, image)
        found.append(float(mine @ theirs / np.linalg.norm(mine) / np.linalg.norm(theirs)))
    return found


def _vector(served: Served, image: bytes) -> NDArray[np.float64]:
    # Both share a cache, in which vectors of both precisions have the same key.
    with served.gateway.client() as client:
        answer = client.post(f"/embed?model={MODEL}&cache=bypass", content=image).raise_for_status().json()
    return np.asarray(answer["embeddings"][0]["vector"])
