"""Time a version against the same model from plain `model.export()`, in the same run and in turns.

Machines differ and wander, so only the ratio is worth remembering: both sides are timed alternately, in the runtime
that TensorFlow Serving uses, and the ratio is that of each pair of turns.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from exporter.loaded import Loaded, loaded
from exporter.pooling import pool
from exporter.preparing import prepare
from exporter.progress import counted, stage
from exporter.scaling import scale
from exporter.slicing import Slice
from exporter.timing import Took, compare, timed
from exporter.trial import trial_pixels
from exporter.versions import recipe_of

ALL = "(all)"
_LEAST_TURNS = 3


@dataclass(frozen=True, slots=True)
class BenchRow:
    """One batch size and output.

    Attributes:
        output: Its name, or `(all)`.
        batch: Images in a batch.
        milliseconds: Of one forward pass, the median.
        images_per_second: By that median.
        plain_milliseconds: Of the same by plain `model.export()`.
        ratio: How many times faster than plain, the median of all turns.
        spread: The middle half of the ratios, from and to.
        cpu_ratio: As `ratio`, by processor time: on a machine that has other work the clock tells of that too.
        turns: How often each side was timed.
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
        seconds: How long each row is timed.
        sources: Where the files that its recipe names start.

    Raises:
        NoVersion: The directory is none.
    """
    recipe = recipe_of(directory, sources)
    slice_ = prepare(recipe)
    names = [output.name for output in recipe.outputs]
    wanted = [(size, name) for size in sizes for name in (names if len(names) == 1 else [*names, ALL])]
    one = trial_pixels(recipe.input.height, recipe.input.width)
    with tempfile.TemporaryDirectory() as plain_directory:
        with stage(f"{recipe.name}: exporting the plain model"):
            _export_plain(slice_, Path(plain_directory))
        with loaded(directory) as version, _plain(Path(plain_directory)) as plain:
            rows = counted(wanted, len(wanted), f"{recipe.name}: timing")
            return [_row(version, plain, np.resize(one, (size, *one.shape[1:])), name, seconds) for size, name in rows]


def _row(version: Loaded, plain: Plain, pixels: np.ndarray[Any, Any], name: str, seconds: float) -> BenchRow:
    outputs = [] if name == ALL else [name]
    ours: list[Took] = []
    theirs: list[Took] = []
    for _ in range(2):  # the first passes choose algorithms and allocate
        version.run(pixels, outputs)
        plain.run(pixels, outputs)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline or len(ours) < _LEAST_TURNS:
        ours.append(timed(lambda: version.run(pixels, outputs)))
        theirs.append(timed(lambda: plain.run(pixels, outputs)))
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
class Plain:
    """What `model.export()` wrote, in a session."""

    signature: Any
    session: tf.compat.v1.Session

    def run(self, pixels: np.ndarray[Any, Any], outputs: Sequence[str]) -> object:
        """Run a batch, and fetch these outputs, or all for none."""
        (images,) = self.signature.inputs.values()
        fetches = [self.signature.outputs[name].name for name in outputs or self.signature.outputs]
        return self.session.run(fetches, {images.name: pixels})


@contextlib.contextmanager
def _plain(directory: Path) -> Iterator[Plain]:
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        meta = tf.compat.v1.saved_model.load(session, [tf.saved_model.SERVING], str(directory))
        yield Plain(meta.signature_def["serving_default"], session)


def _export_plain(slice_: Slice, directory: Path) -> None:
    """Write what an engineer without Microtome writes: scaling and pooling in a model, and `model.export()`.

    Projections and normalising are left out; beside the backbone they cost nothing, and favour the plain side.
    """
    pixels = keras.Input((slice_.pixels.height, slice_.pixels.width, 3), dtype="uint8")
    features = slice_.model(keras.layers.Lambda(lambda images: scale(images, slice_.built.row.scaling))(pixels))
    outputs = {
        output.recipe.name: _Pooled(output.recipe.layers, output.recipe.pooling)(
            [features[layer] for layer in output.recipe.layers]
        )
        for output in slice_.outputs
    }
    keras.Model(pixels, outputs).export(directory, verbose=False)


class _Pooled(keras.layers.Layer):  # type: ignore[misc] # Keras has no types
    """Pools features and puts their vectors side by side."""

    def __init__(self, layers: Sequence[str], pooling: str) -> None:
        super().__init__()
        self._pooling = pooling if len(layers) == 1 or pooling != "none" else "flatten"

    def call(self, features: list[tf.Tensor]) -> tf.Tensor:
        pooled = [pool(part, self._pooling) for part in features]
        return pooled[0] if len(pooled) == 1 else tf.concat(pooled, axis=-1)
