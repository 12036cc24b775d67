"""P9: throughput of a model exported in bfloat16, JPEG in, vector out, and its effect on the vectors, by engine."""

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.processes.stack import Served, Stack
from bench.ratios.measured import Effort, versus
from bench.reporting.comparison import Comparison, interleaved

MODELS = {"float32": "resnet50", "bfloat16": "resnet50_bfloat16"}
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
        served = {model: ends.enter_context(stack.serving(model, f"--engine={engine}")) for model in MODELS.values()}
        cosines = _cosines(stack, served)
        for model, each in served.items():
            stack.cold(1.0, model, each)
        rounds = interleaved(
            {name: partial(stack.cold, effort.seconds, model, served[model]) for name, model in MODELS.items()},
            effort.rounds,
        )
    key = ENGINES[engine]
    what = LIKENESS.format(count=len(cosines), engine=engine)
    return [
        versus(key, WHAT.format(engine=engine), 1.5, rounds, ("bfloat16", "float32")),
        Comparison(f"{key} cosine", what, 0.9999, at_least=True, rounds=cosines, digits=6),
    ]


def _cosines(stack: Stack, served: Mapping[str, Served]) -> list[float]:
    found = []
    for path in stack.corpus.photos[:COMPARED]:
        mine, theirs = (_vector(each, model, Path(path).read_bytes()) for model, each in served.items())
        found.append(float(mine @ theirs / np.linalg.norm(mine) / np.linalg.norm(theirs)))
    return found


def _vector(served: Served, model: str, image: bytes) -> NDArray[np.float64]:
    with served.gateway.client() as client:
        answer = client.post(f"/embed?model={model}", content=image).raise_for_status().json()
    return np.asarray(answer["embeddings"][0]["vector"])
