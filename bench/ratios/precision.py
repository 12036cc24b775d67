"""P9: throughput of bfloat16, JPEG in, vector out, and its effect on the vectors, for both engines."""

from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.processes.stack import Served, Stack
from bench.ratios.measured import Effort, versus
from bench.reporting.comparison import Comparison, interleaved

MODEL = "resnet50"
COMPARED = 16
"""Photos whose vectors are compared."""
FLAGS = ("avx512_bf16", "amx_bf16")
ENGINES = {"tensorflow": "P9", "openvino": "P9 OpenVINO"}
WHAT = "bfloat16 ÷ float32, images/s of ResNet50, cold, {engine} engine"
LIKENESS = "cosine of bfloat16's vectors to float32's, {count} photos, random weights, {engine} engine"


def measure(stack: Stack, effort: Effort) -> list[Comparison]:
    """Compare both precisions with either engine; where the processor has no bfloat16, say so."""
    reason = "" if able(Path("/proc/cpuinfo").read_text()) else f"/proc/cpuinfo shows neither {' nor '.join(FLAGS)}"
    found = []
    for engine, key in ENGINES.items():
        try:
            assert not reason, reason
            found += _compared(stack, effort, engine)
        except AssertionError as error:  # one of its servers did not start
            why = " ".join(str(error).split())[:300]
            found.append(Comparison(key, WHAT.format(engine=engine), 1.5, at_least=True, rounds=[], reason=why))
    return found


def able(cpuinfo: str) -> bool:
    """Whether a processor multiplies in bfloat16, from its /proc/cpuinfo."""
    return bool(set(FLAGS) & set(cpuinfo.split()))


def _compared(stack: Stack, effort: Effort, engine: str) -> list[Comparison]:
    with ExitStack() as ends:
        served = {
            name: ends.enter_context(stack.serving(MODEL, f"--engine={engine}", f"--mixed_precision={value}"))
            for name, value in {"float32": "", "bfloat16": "bfloat16"}.items()
        }
        cosines = _cosines(stack, *served.values())
        for each in served.values():
            stack.cold(1.0, MODEL, each)
        rounds = interleaved(
            {name: partial(stack.cold, effort.seconds, MODEL, each) for name, each in served.items()}, effort.rounds
        )
    key = ENGINES[engine]
    what = LIKENESS.format(count=len(cosines), engine=engine)
    return [
        versus(key, WHAT.format(engine=engine), 1.5, rounds, ("bfloat16", "float32")),
        Comparison(f"{key} cosine", what, 0.9999, at_least=True, rounds=cosines, digits=6),
    ]


def _cosines(stack: Stack, one: Served, other: Served) -> list[float]:
    found = []
    for path in stack.corpus.photos[:COMPARED]:
        mine, theirs = (_vector(each, Path(path).read_bytes()) for each in (one, other))
        found.append(float(mine @ theirs / np.linalg.norm(mine) / np.linalg.norm(theirs)))
    return found


def _vector(served: Served, image: bytes) -> NDArray[np.float64]:
    # Both share a cache, in which vectors of both precisions have the same key.
    with served.gateway.client() as client:
        answer = client.post(f"/embed?model={MODEL}&cache=bypass", content=image).raise_for_status().json()
    return np.asarray(answer["embeddings"][0]["vector"])
