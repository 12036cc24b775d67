"""Vectors of photos, on disk: of many outputs of one backbone, in one forward pass, in one memory-mapped file.

A run that is killed loses at most the photos of the last two seconds; the next run computes those and no others.
"""

import contextlib
import fcntl
import json
import math
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from enum import IntEnum
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

from exporter.errors import CalibrationImageBroken, ImpossibleOption
from exporter.head.projection import Fitted, random_projection
from exporter.head.slicing import Slice
from exporter.runtime.memory import release
from exporter.runtime.terminal import counted
from exporter.savedmodel.freezing import FrozenGraph, frozen_graph
from microtome.machine import cores
from microtome.preprocessing import as_image

Array = np.ndarray[Any, Any]

BATCH = 8
_HASH_SIDE = 16

HASH_WORDS = 4
"""uint64 numbers of a photo's perceptual hash."""

_NEAR_BITS = 6
"""Bits of 256 in which the hashes of two copies of a photo differ at most."""
_LEAST_BITS = 40
"""A photo with fewer bits set, or fewer not set, is nearly of one colour: its hash says little."""
_SECONDS_BETWEEN_FLUSHES = 2.0
_HEAD, _VECTORS, _STATE, _HASHES, _LOCK = "head.json", "vectors.f32", "state.u8", "hashes.u64", "lock"


class State(IntEnum):
    """Whether a photo's vectors are there."""

    MISSING = 0
    DONE = 1
    BROKEN = 2


class FeatureStore:
    """The vectors of some photos, by output.

    Each output has a block of its own, [photos, dimensions] in float32, so that reading one output reads nothing of the
    others. A photo's state is written only after its vectors are on the disk.

    Attributes:
        directory: Where the files are.
        dimensions: Length of the vectors, by output name.
        count: Number of photos.
    """

    def __init__(self, directory: Path, dimensions: Mapping[str, int], count: int) -> None:
        self.directory = directory
        self.dimensions = dict(dimensions)
        self.count = count
        self._starts = dict(zip(dimensions, np.cumsum([0, *dimensions.values()])[:-1] * count, strict=True))
        self._vectors = self._mapped(_VECTORS, np.float32, count * sum(dimensions.values()))
        self._states = self._mapped(_STATE, np.uint8, count)
        self.hashes: Array = self._mapped(_HASHES, np.uint64, count * HASH_WORDS).reshape(count, HASH_WORDS)
        self._pending: list[tuple[int, State]] = []
        self._flushed = time.monotonic()

    @classmethod
    @contextlib.contextmanager
    def opened(cls, directory: Path, dimensions: Mapping[str, int], count: int, head: object) -> Iterator[Self]:
        """Open a store, or create it; one process at a time may have it open.

        Args:
            directory: Holds this store alone.
            dimensions: Length of the vectors, by output name.
            count: Number of photos.
            head: All that decides the vectors, as JSON. A store with another head is replaced.

        Raises:
            ImpossibleOption: The disk has too little room, or another process has the store open.
        """
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / _LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ImpossibleOption(
                    f"Expected a folder for results that no other run writes to. Received: {directory}, which one has "
                    "open. Wait for its end, or give another --out."
                ) from None
            wanted = json.dumps({"head": head, "dimensions": dict(dimensions), "count": count}, sort_keys=True)
            path = directory / _HEAD
            if not path.is_file() or path.read_text(encoding="utf-8") != wanted:
                for name in (_HEAD, _STATE, _HASHES, _VECTORS):
                    (directory / name).unlink(missing_ok=True)
                _want_room(directory, 4 * count * sum(dimensions.values()))
                store = cls(directory, dimensions, count)
                path.write_text(wanted, encoding="utf-8")
            else:
                store = cls(directory, dimensions, count)
            try:
                yield store
            finally:
                store.flush()

    def vectors(self, output: str) -> Array:
        """Return an output's vectors: float32 [photos, dimensions], mapped; rows of photos that are not done are 0."""
        start, width = self._starts[output], self.dimensions[output]
        return self._vectors[start : start + self.count * width].reshape(self.count, width)

    @property
    def states(self) -> Array:
        """The `State` of each photo, uint8 [photos]."""
        return self._states

    def write(self, index: int, vectors: Mapping[str, Array], words: Array) -> None:
        """Write a photo's vectors and its perceptual hash."""
        for output, vector in vectors.items():
            self.vectors(output)[index] = vector.reshape(-1)
        self.hashes[index] = words
        self._note(index, State.DONE)

    def write_broken(self, index: int) -> None:
        """Record that a photo cannot be decoded."""
        self._note(index, State.BROKEN)

    def flush(self) -> None:
        """Write vectors to the disk, then the states that say that they are there."""
        if self._pending:
            self._vectors.flush()
            self.hashes.flush()  # type: ignore[attr-defined] # a memmap
            for index, state in self._pending:
                self._states[index] = state
            self._states.flush()
            self._pending.clear()
        self._flushed = time.monotonic()

    def _note(self, index: int, state: State) -> None:
        self._pending.append((index, state))
        if time.monotonic() - self._flushed > _SECONDS_BETWEEN_FLUSHES:
            self.flush()

    def _mapped(self, name: str, dtype: type[np.generic], size: int) -> np.memmap[Any, Any]:
        path = self.directory / name
        width = np.dtype(dtype).itemsize
        with path.open("ab") as file:
            file.truncate(max(size, 1) * width)
        return np.memmap(path, dtype, "r+", shape=(size,))


def _want_room(directory: Path, needed: int) -> None:
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise ImpossibleOption(
            f"Expected {needed / 1e9:.1f} GB of disk for what is kept of all photos. Received: {free / 1e9:.1f} GB "
            f"free at {directory}. Give fewer photos, layers or poolings, or another --out."
        )


def dimensions(slice_: Slice) -> dict[str, int]:
    """Return the length of each output's vectors, by name."""
    return {output.recipe.name: math.prod(output.shape) for output in slice_.outputs}


def frozen(slice_: Slice) -> FrozenGraph:
    """Freeze a slice of many outputs with the head that an export would freeze; projections are random ones."""
    projections: dict[str, Fitted] = {
        output.recipe.name: random_projection(output.recipe.name, output.pooled[0], output.recipe.projection)
        for output in slice_.outputs
        if output.recipe.projection is not None
    }
    return frozen_graph(slice_, projections, "float32")


def extract(graph: FrozenGraph, read: Callable[[int], Array], store: FeatureStore, what: str) -> dict[int, str]:
    """Compute the vectors that a store lacks.

    A batch holds the same photos in every run and runs on one core, so that a run that was interrupted and one that was
    not give the same bits, on any number of cores.

    Args:
        graph: Its outputs are those of the store.
        read: From a photo's index to its pixels, uint8 [height, width, channels]; raises CalibrationImageBroken.
        store: Gets the vectors.
        what: For the progress bar.

    Returns:
        What is wrong with each photo that cannot be decoded, by index.
    """
    problems = {int(index): _problem(read, int(index)) for index in np.flatnonzero(store.states == State.BROKEN)}
    missing = store.states == State.MISSING
    starts = [start for start in range(0, store.count, BATCH) if missing[start : start + BATCH].any()]
    if not starts:
        return problems
    with graph.session(threads=1) as run, ThreadPoolExecutor(cores()) as pool:

        def run_batch(
            start: int,
        ) -> tuple[int, Mapping[str, Array], dict[int, Array], dict[int, str]]:
            words: dict[int, Array] = {}
            wrong: dict[int, str] = {}
            pixels: list[Array | None] = []
            for index in range(start, min(start + BATCH, store.count)):
                try:
                    image = read(index)
                except CalibrationImageBroken as error:
                    wrong[index] = str(error)
                    pixels.append(None)
                else:
                    pixels.append(image)
                    words[index] = perceptual_hash(image)
            whole = next((one for one in pixels if one is not None), None)
            if whole is None:
                return start, {}, words, wrong
            # As many images in the last batch, and in one with broken photos, as in the others.
            black = np.zeros_like(whole)
            batch = [black if one is None else one for one in pixels] + [black] * (BATCH - len(pixels))
            return start, run(np.stack(batch)), words, wrong

        for start, answers, words, wrong in counted(_ahead(pool, run_batch, starts), len(starts), what):
            for index, found in words.items():
                store.write(index, {name: vectors[index - start] for name, vectors in answers.items()}, found)
            for index in wrong:
                store.write_broken(index)
            problems |= wrong
    store.flush()
    release()
    return problems


def _problem(read: Callable[[int], Array], index: int) -> str:
    try:
        read(index)
    except CalibrationImageBroken as error:
        return str(error)
    return "It could not be decoded when its vectors were computed."


def _ahead(
    pool: ThreadPoolExecutor, run: Callable[[int], Any], starts: list[int]
) -> Iterator[tuple[int, Mapping[str, Array], dict[int, Array], dict[int, str]]]:
    """Run batches in order, a few ahead of the reader, so that memory does not grow with their number."""
    waiting: deque[Future[Any]] = deque()
    for start in starts:
        waiting.append(pool.submit(run, start))
        if len(waiting) > 2 * cores():
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def perceptual_hash(pixels: Array) -> Array:
    """Return a difference hash of 256 bits, as uint64 [4]: whether each cell is brighter than its left neighbour.

    Neal Krawetz, "Kind of Like That", 2013. Copies of a photo that were scaled or compressed differ in a few bits;
    different photos in about half of them.
    """
    grey = as_image(pixels).convert("L").resize((_HASH_SIDE + 1, _HASH_SIDE), Image.Resampling.BOX)
    cells = np.asarray(grey, dtype=np.int16)
    bits = np.packbits(cells[:, 1:] > cells[:, :-1])
    return bits.view(np.uint64)


def near_copies(hashes: Array, there: Array, kinds: Sequence[object]) -> list[tuple[int, int]]:
    """Return pairs of photos of two kinds whose hashes are all but equal.

    Args:
        hashes: uint64 [photos, 4].
        there: Whether each photo takes part, bool [photos].
        kinds: Of each photo, such as its class.
    """
    set_bits = np.bitwise_count(hashes).sum(axis=1)
    bits = 64 * hashes.shape[1]
    rows = np.flatnonzero(there & (set_bits >= _LEAST_BITS) & (set_bits <= bits - _LEAST_BITS))
    _, kind_of = np.unique([str(kind) for kind in kinds], return_inverse=True)
    found = []
    for at, row in enumerate(rows):
        later = rows[at + 1 :]
        close = np.bitwise_count(hashes[later] ^ hashes[row]).sum(axis=1) <= _NEAR_BITS
        found += [(int(row), int(other)) for other in later[close] if kind_of[other] != kind_of[row]]
    return found
