"""Vectors on disk: one memory-mapped file for all outputs of a backbone, and a journal of what is there.

A run that is killed loses at most the photos of the last two seconds; the next run computes those and no others.
"""

import contextlib
import fcntl
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from enum import IntEnum
from pathlib import Path
from typing import Any, Self

import numpy as np

from exporter.errors import ImpossibleOption

Array = np.ndarray[Any, Any]

HASH_WORDS = 4
"""uint64 numbers of a photo's perceptual hash."""

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
            f"Expected {needed / 1e9:.1f} GB of disk for the vectors of all candidates. Received: {free / 1e9:.1f} GB "
            f"free at {directory}. Name fewer --layers or --pooling, or another --out."
        )
