"""Keep fitted projections beside a version: it can be verified, and others can project, without the images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from exporter.projection import Fitted, FittedPca, SparseProjection

FILE = "projections.npz"


def write_projections(assets: Path, projections: Mapping[str, Fitted]) -> None:
    """Write `projections.npz` into `assets.extra`; nothing when there are none."""
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
    """Read them back.

    Raises:
        ValueError: The file is damaged.
        KeyError: It lacks an array.
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
