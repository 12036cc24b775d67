"""What the front's candidates lose when their vectors are made shorter or coarser, and how long they take."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf

from exporter.head.projection import fit_pca, project, random_projection
from exporter.recipe.resolved import DEFAULT_CALIBRATION_IMAGES, Projection
from exporter.runtime.memory import lean_session
from exporter.savedmodel.freezing import FrozenGraph
from exporter.sweep.candidates import Candidate
from exporter.sweep.measures import Scores, Task

_SHORTEST, _LONGEST = 32, 1024
_RUNS = 15

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Losses:
    """Changes of the measure; negative ones are losses.

    Attributes:
        pca: By dimensions. Fitted on half of the photos and measured on queries of the other half, both ways.
        random: By dimensions.
        int8: One byte a dimension, by each dimension's range.
        binary: One bit a dimension, its sign, as the gateway's `encoding=binary`.
    """

    pca: dict[int, float]
    random: dict[int, float]
    int8: float
    binary: float


def losses(candidate: Candidate, vectors: Array, scores: Scores, task: Task, seed: int) -> Losses:
    """Measure a candidate's vectors in shorter and coarser forms.

    Args:
        candidate: The candidate.
        vectors: float32 [photos, dimensions].
        scores: Of these vectors by the task.
        task: The task.
        seed: Of the halves and the random projections.
    """
    quick = replace(task, drawn=task.drawn[:, :1])
    wide = np.asarray(vectors, np.float32)
    sizes = [1 << power for power in range(20) if _SHORTEST <= 1 << power <= min(_LONGEST, wide.shape[1] - 1)]
    short = (
        {} if candidate.output.projection is not None or len(candidate.output.layers) > 1 else _short(wide, sizes, seed)
    )
    drawn = {size: quick.score(vector).estimate - scores.estimate for size, vector in short.items()}
    low, high = wide.min(axis=0), wide.max(axis=0)
    step = np.maximum(high - low, np.float32(1e-12)) / 255
    rounded = np.rint((wide - low) / step) * step + low
    return Losses(
        _pca(wide, sizes, quick, scores, seed) if short else {},
        drawn,
        quick.score(rounded).estimate - scores.estimate,
        quick.score(np.where(wide > 0, np.float32(1), np.float32(-1))).estimate - scores.estimate,
    )


def _short(wide: Array, sizes: Sequence[int], seed: int) -> dict[int, Array]:
    found = {}
    for size in sizes:
        fitted = random_projection("", wide.shape[1], Projection("random", size, seed=seed))
        found[size] = project(wide, fitted)
    return found


def _pca(wide: Array, sizes: Sequence[int], task: Task, scores: Scores, seed: int) -> dict[int, float]:
    units = len(task.drawn)
    numbers = np.random.default_rng(seed)
    chosen = np.zeros(units, bool)
    chosen[numbers.permutation(units)[: units // 2]] = True
    differences: dict[int, list[float]] = {}
    for half in (chosen, ~chosen):
        rows = np.flatnonzero(half[task.unit_of])
        rows = np.sort(numbers.permutation(rows)[:DEFAULT_CALIBRATION_IMAGES])
        possible = [size for size in sizes if size <= min(len(rows) - 1, wide.shape[1])]
        if not possible:
            continue
        fitted = fit_pca("", wide[rows], Projection("pca", possible[-1]))
        short = project(wide, fitted)
        for size in possible:
            change = task.score(short[:, :size]).on(~half) - scores.on(~half)
            differences.setdefault(size, []).append(change)
    return {size: float(np.mean(each)) for size, each in differences.items()}


def milliseconds(
    graph: FrozenGraph, outputs: Sequence[str], shape: tuple[int, int, int]
) -> dict[str, tuple[float, float]]:
    """Time one image up to each output, as a network that is cut there: wall-clock and processor time.

    Only what an output needs is computed. The fastest of several runs counts: other work on the machine only adds.
    """
    pixels = np.random.default_rng(0).integers(0, 256, (1, *shape), dtype=np.uint8)
    found = {}
    with tf.Graph().as_default() as whole:
        tf.import_graph_def(graph.definition, name="")
        with tf.compat.v1.Session(graph=whole, config=lean_session()) as session:
            for output in outputs:
                run = session.make_callable(f"{graph.outputs[output]}:0", [f"{graph.input}:0"])
                run(pixels)
                run(pixels)
                took = []
                for _ in range(_RUNS):
                    clock, processor = time.perf_counter(), time.process_time()
                    run(pixels)
                    took.append((time.perf_counter() - clock, time.process_time() - processor))
                wall, cpu = (1e3 * min(side) for side in zip(*took, strict=True))
                found[output] = (wall, cpu)
    return found
