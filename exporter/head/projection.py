"""Fit, apply and store projections to fewer dimensions: principal components, or a seeded sparse random matrix.

Fitted projections are stored in each version, so that it can be verified without the calibration images.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from exporter.errors import ImpossibleProjection
from exporter.recipe.resolved import Projection

Array = np.ndarray[Any, Any]

_NONZEROS = 4
"""Of a random matrix, per input dimension."""
_VARIANCE_FLOOR = 1e-12


@dataclass(frozen=True, slots=True)
class FittedPca:
    """A projection on principal components.

    Attributes:
        mean: float32 [D], subtracted first.
        components: float32 [D, d], by decreasing variance, so that a prefix of the short vector is the best vector of
            its length.
        explained: Share of the variance that each component explains, [d].
    """

    mean: Array
    components: Array
    explained: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class SparseProjection:
    """A sparse random projection.

    Attributes:
        rows: int64 [n], each nonzero's index in the short vector.
        columns: int64 [n], its index in the long vector.
        signs: float32 [n], its value.
        dim: Length of the short vector.
    """

    rows: Array
    columns: Array
    signs: Array
    dim: int


Fitted = FittedPca | SparseProjection


def check_dimensions(name: str, wanted: Projection, width: int, images: int) -> None:
    """Check that vectors can be projected to the wanted number of dimensions.

    Args:
        name: The output's name, for messages.
        wanted: The projection.
        width: Length of the vectors before projection.
        images: Number of images to fit principal components on.

    Raises:
        ImpossibleProjection: More dimensions are wanted than images or features allow.
    """
    if wanted.kind == "random" and wanted.dim > width:
        raise ImpossibleProjection(f"Expected random of at most {width} for the output {name}. Received: {wanted.dim}.")
    most = min(images - 1, width)
    if wanted.kind == "pca" and wanted.dim > most:
        raise ImpossibleProjection(
            f"Expected pca of at most {most} for the output {name}, which has {width} dimensions and {images} "
            f"calibration images. Received: {wanted.dim}. Give more images, or ask for fewer dimensions."
        )


def fit_pca(name: str, vectors: Array, wanted: Projection) -> FittedPca:
    """Fit principal components.

    The result is bitwise reproducible: the decomposition is computed in float64, and the largest coefficient of each
    component is positive.

    Args:
        name: The output's name, for messages.
        vectors: float32 [N, D].
        wanted: Number of components, and whether they are scaled to variance one.

    Raises:
        ImpossibleProjection: More components are wanted than images or dimensions allow.
    """
    count, width = vectors.shape
    check_dimensions(name, wanted, width, count)
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
    """Draw a sparse random matrix that preserves lengths and angles in expectation.

    Each number of the long vector is added to or subtracted from one number in each of four blocks of the short
    vector: Kane and Nelson, "Sparser Johnson-Lindenstrauss Transforms", J. ACM 61(1), 2014, the block construction.

    Raises:
        ImpossibleProjection: The result would not be shorter.
    """
    check_dimensions(name, wanted, width, 0)
    blocks = min(_NONZEROS, wanted.dim)
    edges = np.linspace(0, wanted.dim, blocks + 1).astype(np.int64)
    # Raw bits, because numpy guarantees only them to stay the same in all releases.
    bits = np.random.PCG64(wanted.seed).random_raw((width, blocks))
    rows = edges[:-1] + ((bits >> np.uint64(1)) % np.diff(edges).astype(np.uint64)).astype(np.int64)
    signs = np.where(bits & np.uint64(1), 1.0, -1.0) / np.sqrt(blocks)
    columns = np.repeat(np.arange(width, dtype=np.int64), blocks)
    order = np.lexsort((columns, rows.ravel()))
    return SparseProjection(rows.ravel()[order], columns[order], signs.ravel()[order].astype(np.float32), wanted.dim)


def project(vectors: Array, fitted: Fitted) -> Array:
    """Project with numpy in float64, as a reference for the graph.

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
    """Return variances, largest first, and the axes as columns, from the smaller Gram matrix."""
    count, width = centred.shape
    if width <= count:
        variances, axes = np.linalg.eigh(centred.T @ centred / (count - 1))
        return variances[::-1], axes[:, ::-1]
    variances, weights = np.linalg.eigh(centred @ centred.T / (count - 1))
    variances, weights = variances[::-1], weights[:, ::-1]
    axes = centred.T @ weights
    lengths = np.linalg.norm(axes, axis=0)
    return variances, axes / np.maximum(lengths, np.sqrt(_VARIANCE_FLOOR))


FILE = "projections.npz"


def write_projections(assets: Path, projections: Mapping[str, Fitted]) -> None:
    """Write `projections.npz` into `assets.extra`, unless there are no projections."""
    arrays: dict[str, Any] = {}
    for name, fitted in projections.items():
        if isinstance(fitted, FittedPca):
            found = {"mean": fitted.mean, "components": fitted.components, "explained": np.array(fitted.explained)}
        else:
            found = {
                "rows": fitted.rows, "columns": fitted.columns, "signs": fitted.signs, "dim": np.array(fitted.dim),
            }  # fmt: skip
        arrays |= {f"{name}/{key}": value for key, value in found.items()}
    if arrays:
        np.savez(assets / FILE, **arrays)


def read_projections(assets: Path) -> dict[str, Fitted]:
    """Read the projections of a version; none if it has no file.

    Raises:
        ValueError: The file is damaged.
        KeyError: The file lacks an array.
    """
    path = assets / FILE
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as arrays:
        names = dict.fromkeys(key.rpartition("/")[0] for key in arrays)
        found: dict[str, Fitted] = {}
        for name in names:
            if f"{name}/mean" in arrays:
                explained = tuple(float(share) for share in arrays[f"{name}/explained"])
                found[name] = FittedPca(arrays[f"{name}/mean"], arrays[f"{name}/components"], explained)
            else:
                rows, columns, signs = (arrays[f"{name}/{key}"] for key in ("rows", "columns", "signs"))
                found[name] = SparseProjection(rows, columns, signs, int(arrays[f"{name}/dim"]))
        return found
