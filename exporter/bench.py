"""Time a version against the same model from plain `model.export()`, in the same run and in turns.

Machines differ and their speed varies, so only ratios are comparable: both sides run alternately, in the runtime of
TensorFlow Serving, and each pair of turns gives a ratio.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from exporter.head.pooling import pool
from exporter.head.scaling import scale
from exporter.head.slicing import Slice, prepare
from exporter.runtime.terminal import counted, stage
from exporter.savedmodel.freezing import INPUTS, named_for_scopes
from exporter.savedmodel.saved_model import Loaded, loaded
from exporter.savedmodel.versions import recipe_of
from exporter.verify.sample_images import with_images

ALL = "(all)"
_LEAST_TURNS = 3


@dataclass(frozen=True, slots=True)
class BenchRow:
    """One batch size and output.

    Attributes:
        output: The output's name, or `(all)`.
        batch: Images in a batch.
        milliseconds: Median time of one forward pass.
        images_per_second: By that median.
        plain_milliseconds: Median time of the same pass of the plain model.
        ratio: How many times faster than plain, median of all turns.
        spread: The middle half of the ratios, from and to.
        cpu_ratio: As `ratio`, by processor time, which other work on the machine does not affect.
        turns: Number of runs of each side.
    """

    output: str
    batch: int
    milliseconds: float
    images_per_second: float
    plain_milliseconds: float
    ratio: float
    spread: tuple[float, float]
    cpu_ratio: float
    turns: int


def bench(directory: Path, sizes: Sequence[int], seconds: float, sources: Path) -> list[BenchRow]:
    """Time a version.

    Args:
        directory: The version.
        sizes: Batch sizes.
        seconds: Time for each row.
        sources: The folder of the files that its recipe names.

    Raises:
        NoVersion: The directory is not a version.
    """
    recipe = recipe_of(directory, sources)
    slice_ = prepare(recipe)
    names = [output.name for output in recipe.outputs]
    wanted = [(size, name) for size in sizes for name in (names if len(names) == 1 else [*names, ALL])]
    one = with_images(recipe.input, [])
    with tempfile.TemporaryDirectory() as plain_directory:
        with stage(f"{recipe.name}: exporting the plain model"):
            _export_plain(slice_, Path(plain_directory))
        with loaded(directory) as version, loaded(Path(plain_directory)) as plain:
            rows = counted(wanted, len(wanted), f"{recipe.name}: timing")
            return [_row(version, plain, np.resize(one, (size, *one.shape[1:])), name, seconds) for size, name in rows]


def _row(version: Loaded, plain: Loaded, pixels: np.ndarray[Any, Any], name: str, seconds: float) -> BenchRow:
    outputs = [] if name == ALL else [name]
    ours, theirs = in_turns(lambda: version.run(pixels, outputs), lambda: plain.run(pixels, outputs), seconds)
    ratios = compare(theirs, ours)
    middle = statistics.median(took.clock for took in ours)
    return BenchRow(
        output=name,
        batch=len(pixels),
        milliseconds=round(middle * 1e3, 3),
        images_per_second=round(len(pixels) / middle, 1),
        plain_milliseconds=round(statistics.median(took.clock for took in theirs) * 1e3, 3),
        ratio=ratios.clock,
        spread=ratios.spread,
        cpu_ratio=ratios.processor,
        turns=len(ours),
    )


@dataclass(frozen=True, slots=True)
class Took:
    """The duration of one run, in seconds.

    Attributes:
        clock: Wall-clock time.
        processor: Processor time on all cores, without other processes.
    """

    clock: float
    processor: float


@dataclass(frozen=True, slots=True)
class Ratios:
    """How many times as long one side took as the other.

    Attributes:
        clock: Median of all turns, by wall-clock time.
        spread: The middle half of those, from and to.
        processor: Median of all turns, by processor time.
    """

    clock: float
    spread: tuple[float, float]
    processor: float


def in_turns(one: Callable[[], object], other: Callable[[], object], seconds: float) -> tuple[list[Took], list[Took]]:
    """Run two functions alternately for some seconds, and at least three times, and return the durations of each."""
    for run in (one, other, one, other):  # the first runs choose algorithms and allocate
        run()
    ones: list[Took] = []
    others: list[Took] = []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline or len(ones) < _LEAST_TURNS:
        ones.append(_timed(one))
        others.append(_timed(other))
    return ones, others


def _timed(run: Callable[[], object]) -> Took:
    clock, processor = time.perf_counter(), time.process_time()
    run()
    return Took(time.perf_counter() - clock, time.process_time() - processor)


def compare(ones: Sequence[Took], others: Sequence[Took]) -> Ratios:
    """Compare two sides of equal length, turn by turn."""
    pairs = list(zip(ones, others, strict=True))
    by_clock = sorted(one.clock / other.clock for one, other in pairs)
    quarter = len(by_clock) // 4
    return Ratios(
        round(statistics.median(by_clock), 3),
        (round(by_clock[quarter], 3), round(by_clock[-1 - quarter], 3)),
        round(statistics.median(one.processor / other.processor for one, other in pairs), 3),
    )


def _export_plain(slice_: Slice, directory: Path) -> None:
    """Write the model as without Microtome: scaling and pooling in a Keras model, and `model.export()`.

    Projection and normalisation are left out; they cost little, and leaving them out favours the plain side.
    """
    name, dtype = INPUTS[slice_.input.kind]
    pixels = keras.Input(slice_.input.shape, dtype=dtype, name=name)
    features = slice_.model(keras.layers.Lambda(lambda images: scale(images, slice_.built.row.scaling))(pixels))
    outputs = {
        output.recipe.name: _Pooled(output.recipe.cuts, output.recipe.pooling)(
            [features[cut] for cut in output.recipe.cuts]
        )
        for output in slice_.outputs
    }
    plain = keras.Model(pixels, outputs)
    with named_for_scopes(plain):
        plain.export(directory, verbose=False)


class _Pooled(keras.layers.Layer):  # type: ignore[misc] # Keras has no types
    """Pools features and concatenates their vectors."""

    def __init__(self, layers: Sequence[str], pooling: str) -> None:
        super().__init__()
        self._pooling = pooling if len(layers) == 1 or pooling != "none" else "flatten"

    def call(self, features: list[tf.Tensor]) -> tf.Tensor:
        pooled = [pool(part, self._pooling) for part in features]
        return pooled[0] if len(pooled) == 1 else tf.concat(pooled, axis=-1)
