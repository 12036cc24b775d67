"""The file of a trained head, and that its graph computes what its definition says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from exporter.errors import ImpossibleHead
from exporter.head.dense import FLOOR, DenseHead, read_head, remaining_at
from exporter.head.embedding import _answers


def known_directions() -> np.ndarray[Any, Any]:
    """Return five directions of six numbers."""
    known = np.random.default_rng(2).normal(size=(5, 6))
    return np.asarray(known / np.linalg.norm(known, axis=1, keepdims=True), np.float32)


def some_head(*, gated: bool = True) -> DenseHead:
    """Return two layers on vectors of 6 numbers, for 3 classes."""
    numbers = np.random.default_rng(0)
    known = known_directions()
    sizes = ((6, 4), (4, 3))
    layers = tuple(
        (numbers.normal(size=size).astype(np.float32), numbers.normal(size=size[1]).astype(np.float32))
        for size in sizes
    )
    return DenseHead(layers, known, 0.25, 0.75) if gated else DenseHead(layers)


@pytest.mark.parametrize("gated", [True, False])
def test_a_file_holds_all_of_a_head_and_the_graph_computes_it(tmp_path: Path, *, gated: bool) -> None:
    """Vectors near, between and far: numpy in float64 and TensorFlow in float32 agree."""
    head = some_head(gated=gated)
    head.write(tmp_path / "head.npz")
    again = read_head(tmp_path / "head.npz")
    numbers = np.random.default_rng(1)
    away = numbers.normal(size=(15, 6)) * np.repeat([[0.05], [0.4], [2.0]], 5, axis=0)
    vectors = (np.repeat(known_directions(), 3, axis=0) + away).astype(np.float32)
    expected = head.logits(vectors)
    assert np.array_equal(again.logits(vectors), expected)
    assert np.allclose(_answers(tf.constant(vectors), again).numpy(), expected, rtol=2e-4, atol=1e-5)
    assert (again.dimension, again.classes, again.params) == (6, 3, 43 + (30 if gated else 0))


def test_logits_shrink_with_distance_and_never_vanish() -> None:
    """Whole up to `near`, a hundredth from `far` on: zeros would equal the golden vectors of any model."""
    assert remaining_at(np.array([0.0, 0.2, 0.3, 0.4, 2.0]), 0.2, 0.4).tolist() == pytest.approx(
        [1, 1, 0.5, FLOOR, FLOOR]
    )


def broken(change: dict[str, Any]) -> dict[str, Any]:
    """Return the arrays of a head with a change."""
    head = some_head()
    arrays: dict[str, Any] = {"known": head.known, "range": np.array([0.2, 0.4], np.float32)}
    for index, (kernel, bias) in enumerate(head.layers):
        arrays |= {f"kernel_{index}": kernel, f"bias_{index}": bias}
    return {name: one for name, one in {**arrays, **change}.items() if one is not None}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kernel_0": None}, "not kernel_0"),
        ({"extra": np.zeros(3, np.float32)}, "extra"),
        ({"bias_1": np.zeros(3)}, "another type"),
        ({"bias_1": np.zeros(4, np.float32)}, "does not fit its kernel"),
        ({"kernel_1": np.zeros((5, 3), np.float32)}, "do not fit each other"),
        ({"known": np.zeros((2, 5), np.float32)}, "do not fit each other"),
        ({"range": np.array([0.4, 0.2], np.float32)}, "range"),
        ({"bias_0": np.full(4, np.nan, np.float32)}, "not finite"),
        ({"bias_0": np.array([{}] * 4)}, "Object arrays"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    """One sentence, whatever is in the file; pickles are never loaded."""
    path = tmp_path / "head.npz"
    np.savez(path, **broken(change))
    with pytest.raises(ImpossibleHead, match=said):
        read_head(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"no zip"])
def test_torn_files_are_refused(tmp_path: Path, content: bytes) -> None:
    """A file that is no archive is answered with one sentence."""
    path = tmp_path / "head.npz"
    path.write_bytes(content)
    with pytest.raises(ImpossibleHead, match="Expected a head written by microtome train"):
        read_head(path)
