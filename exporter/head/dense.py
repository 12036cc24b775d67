"""Trained layers on an embedding: their file, and what they compute, by numpy; `exporter.head.embedding` has the graph.

The file is a `.npz` of float32 arrays without pickle: `kernel_0` [D, h] and `bias_0` [h] for each layer, and perhaps
`known` [P, D] with `range` [2]. All but the last layer are followed by ReLU.

`known` are directions of training photos. An embedding that is far from all of them gets logits near zero, so that all
its scores are alike and below any threshold: it is of no known class, whatever the layers say.
"""

import zipfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from exporter.errors import ImpossibleHead
from exporter.runtime.archives import opened_zip

FILE_SUFFIX = ".npz"
FLOOR = 0.01
"""What remains of the logits far from every training photo; not 0, which would equal any other model's."""
SMALLEST_NORM = 1e-6
_MOST_LAYERS = 8

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, eq=False)
class DenseHead:
    """Trained layers on an embedding.

    Attributes:
        layers: Kernel, float32 [D, h], and bias, float32 [h], of each.
        known: Directions of training photos, float32 [P, D] of length one; None where distance does not count.
        near: Cosine distance to the nearest of them up to which logits are whole.
        far: Distance from which `FLOOR` of them remains; linear in between.
    """

    layers: tuple[tuple[Array, Array], ...]
    known: Array | None = None
    near: float = 0.0
    far: float = 1.0

    @property
    def dimension(self) -> int:
        """Length of the embedding."""
        return int(self.layers[0][0].shape[0])

    @property
    def classes(self) -> int:
        """Length of the answer."""
        return int(self.layers[-1][0].shape[1])

    @property
    def params(self) -> int:
        """Weights, those of the known directions included."""
        whole = sum(kernel.size + bias.size for kernel, bias in self.layers)
        return whole + (0 if self.known is None else self.known.size)

    @property
    def flops(self) -> int:
        """Operations for one embedding."""
        return 2 * self.params

    def logits(self, vectors: Array) -> Array:
        """Compute the answer in float64, as a reference for the graph.

        Args:
            vectors: [N, D].

        Returns:
            float64 [N, classes].
        """
        found = vectors.astype(np.float64)
        for index, (kernel, bias) in enumerate(self.layers):
            found = found @ kernel.astype(np.float64) + bias
            if index < len(self.layers) - 1:
                found = np.maximum(found, 0)
        return found * self.remaining(vectors)[:, None]

    def remaining(self, vectors: Array) -> Array:
        """Return the share of the logits that remains at the distance of each vector [N, D], float64 [N]."""
        if self.known is None:
            return np.ones(len(vectors))
        wide = vectors.astype(np.float64)
        unit = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), SMALLEST_NORM)
        distance = 1 - (unit @ self.known.astype(np.float64).T).max(axis=1)
        return remaining_at(distance, self.near, self.far)

    def write(self, path: Path) -> None:
        """Write the file."""
        arrays = {}
        for index, (kernel, bias) in enumerate(self.layers):
            arrays[f"kernel_{index}"] = kernel.astype(np.float32)
            arrays[f"bias_{index}"] = bias.astype(np.float32)
        if self.known is not None:
            arrays |= {"known": self.known.astype(np.float32), "range": np.array([self.near, self.far], np.float32)}
        draft = path.with_name(f".{path.name}.tmp")
        with draft.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        draft.replace(path)


def remaining_at(distance: Array, near: float, far: float) -> Array:
    """Return the share of the logits that remains at some distances, float64 of the same shape."""
    return np.asarray(np.clip((far - distance) / (far - near), FLOOR, 1.0))


def read_head(path: Path) -> DenseHead:
    """Read a file of trained layers.

    Raises:
        ImpossibleHead: It is damaged, or not such a file.
    """
    try:
        with opened_zip(path), np.load(path, allow_pickle=False) as arrays:
            found = {name: np.asarray(arrays[name]) for name in arrays.files[: 2 * _MOST_LAYERS + 2]}
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        raise ImpossibleHead(f"Expected a head written by microtome train. Received: {path}: {error}") from error
    layers: list[tuple[Array, Array]] = []
    while f"kernel_{len(layers)}" in found and f"bias_{len(layers)}" in found:
        layers.append((found[f"kernel_{len(layers)}"], found[f"bias_{len(layers)}"]))
    known, limits = found.get("known"), found.get("range", np.array([0, 1], np.float32))
    problem = _problem(layers, known, limits, set(found) - {"known", "range"})
    if problem:
        raise ImpossibleHead(f"Expected a head written by microtome train. Received: {path}: {problem}.")
    return DenseHead(tuple(layers), known, float(limits[0]), float(limits[1]))


def _problem(layers: list[tuple[Array, Array]], known: Array | None, limits: Array, names: set[str]) -> str:
    if not layers or len(names) != 2 * len(layers):
        return f"the arrays {', '.join(sorted(names)) or 'none'}, and not kernel_0, bias_0 and so on"
    every = [*(one for layer in layers for one in layer), limits, *([] if known is None else [known])]
    if any(one.dtype != np.float32 or not one.size for one in every):
        return "empty arrays, or of another type than float32"
    if any(kernel.ndim != 2 or bias.shape != kernel.shape[1:] for kernel, bias in layers):
        return "a bias that does not fit its kernel"
    fits = all(one[0].shape[1] == after[0].shape[0] for one, after in pairwise(layers))
    if not fits or (known is not None and (known.ndim != 2 or known.shape[1] != layers[0][0].shape[0])):
        return "arrays that do not fit each other"
    if limits.shape != (2,) or not limits[0] < limits[1]:
        return "a range that is none"
    return "" if all(np.isfinite(one).all() for one in every) else "numbers that are not finite"
