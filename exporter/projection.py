"""Fit matrices that make long vectors short: principal components, or a seeded sparse random matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from exporter.attainable import want_dimensions
from exporter.recipe import Projection

Array = np.ndarray[Any, Any]

_NONZEROS = 4
"""Of a random matrix, for each dimension that comes in."""
_VARIANCE_FLOOR = 1e-12


@dataclass(frozen=True, slots=True)
class FittedPca:
    """A projection on principal components.

    Attributes:
        mean: float32 [D], subtracted first.
        components: float32 [D, d], in order of variance, so that a prefix of the short vector is itself the best
            shorter vector.
        explained: Share of the variance that each component explains, [d].
    """

    mean: Array
    components: Array
    explained: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class SparseProjection:
    """A sparse random projection.

    Attributes:
        rows: int64 [n], which number of the short vector each nonzero adds to.
        columns: int64 [n], which number of the long vector it takes.
        signs: float32 [n], what it multiplies with.
        dim: Numbers in the short vector.
    """

    rows: Array
    columns: Array
    signs: Array
    dim: int


Fitted = FittedPca | SparseProjection


def fit_pca(name: str, vectors: Array, wanted: Projection) -> FittedPca:
    """Fit principal components.

    The same vectors give the same components to the last bit: the decomposition is computed in float64, and each
    component's sign is settled by its largest coefficient.

    Args:
        name: Of the output, for messages.
        vectors: float32 [N, D].
        wanted: How many components, and whether they are scaled to variance one.

    Raises:
        ImpossibleProjection: More components are wanted than images or dimensions allow.
    """
    count, width = vectors.shape
    want_dimensions(name, wanted, width, count)
    mean = vectors.mean(axis=0, dtype=np.float64)
    centred = vectors - mean
    variances, axes = _principal_axes(centred)
    axes = axes[:, : wanted.dim]
    largest = np.abs(axes).argmax(axis=0)
    axes = axes * np.sign(axes[largest, np.arange(wanted.dim)])
    if wanted.whiten:
        axes = axes / np.sqrt(np.maximum(variances[: wanted.dim], _VARIANCE_FLOOR))
    total = max(float((centred**2).sum() / (count - 1)), _VARIANCE_FLOOR)
    explained = tuple(round(float(variance / total), 8) for variance in variances[: wanted.dim])
    return FittedPca(mean.astype(np.float32), axes.astype(np.float32), explained)


def random_projection(name: str, width: int, wanted: Projection) -> SparseProjection:
    """Draw a sparse random matrix that keeps lengths and angles in expectation.

    Every number of the long vector is added to or subtracted from one number in each of four blocks of the short
    vector: Kane and Nelson, "Sparser Johnson-Lindenstrauss Transforms", J. ACM 61(1), 2014, the block construction.

    Raises:
        ImpossibleProjection: The short vector would not be the shorter one.
    """
    want_dimensions(name, wanted, width, 0)
    blocks = min(_NONZEROS, wanted.dim)
    edges = np.linspace(0, wanted.dim, blocks + 1).astype(np.int64)
    # Raw bits, because only they are promised to stay the same in every release of numpy.
    bits = np.random.PCG64(wanted.seed).random_raw((width, blocks))
    rows = edges[:-1] + ((bits >> np.uint64(1)) % np.diff(edges).astype(np.uint64)).astype(np.int64)
    signs = np.where(bits & np.uint64(1), 1.0, -1.0) / np.sqrt(blocks)
    columns = np.repeat(np.arange(width, dtype=np.int64), blocks)
    order = np.lexsort((columns, rows.ravel()))
    return SparseProjection(rows.ravel()[order], columns[order], signs.ravel()[order].astype(np.float32), wanted.dim)


def project(vectors: Array, fitted: Fitted) -> Array:
    """Project with numpy, in float64: what the graph is held against.

    Args:
        vectors: [N, D].
        fitted: The projection.

    Returns:
        float64 [N, d].
    """
    wide = vectors.astype(np.float64)
    if isinstance(fitted, FittedPca):
        return np.asarray((wide - fitted.mean) @ fitted.components.astype(np.float64))
    short = np.zeros((len(wide), fitted.dim))
    for row, column, sign in zip(fitted.rows, fitted.columns, fitted.signs, strict=True):
        short[:, row] += wide[:, column] * float(sign)
    return short


def _principal_axes(centred: Array) -> tuple[Array, Array]:
    """Return variances, largest first, and the axes as columns, by whichever Gram matrix is the smaller."""
    count, width = centred.shape
    if width <= count:
        variances, axes = np.linalg.eigh(centred.T @ centred / (count - 1))
        return variances[::-1], axes[:, ::-1]
    variances, weights = np.linalg.eigh(centred @ centred.T / (count - 1))
    variances, weights = variances[::-1], weights[:, ::-1]
    axes = centred.T @ weights
    lengths = np.linalg.norm(axes, axis=0)
    return variances, axes / np.maximum(lengths, np.sqrt(_VARIANCE_FLOOR))
