"""Projections: the right axes, in the right order, the same every time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from exporter.errors import ImpossibleProjection
from exporter.head.projection import FittedPca, fit_pca, project, random_projection
from exporter.recipe.resolved import Projection

NUMBERS = np.random.default_rng(3)
SPREAD = np.array([1.0, 9.0, 4.0, 0.1, 2.0, 0.5])
TALL = (NUMBERS.normal(size=(400, 6)) * SPREAD + 7).astype(np.float32)
WIDE = (NUMBERS.normal(size=(20, 5)) @ NUMBERS.normal(size=(5, 64))).astype(np.float32)

ROWS = [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 3, 3, 3, 4, 4, 4]
COLUMNS = [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5, 2, 4, 5, 0, 1, 3]
SIGNS = [1, 1, -1, -1, 1, 1, -1, -1, -1, -1, 1, 1, 1, -1, 1, 1, 1, -1, -1, -1, 1, -1, -1, -1]


@pytest.mark.parametrize(("vectors", "dim"), [(TALL, 4), (WIDE, 4)], ids=["more images", "more dimensions"])
def test_components_are_those_of_the_singular_values(vectors: np.ndarray[Any, Any], dim: int) -> None:
    """Either way of computing them finds the axes that a singular value decomposition finds, largest first."""
    fitted = fit_pca("a", vectors, Projection("pca", dim))
    centred = vectors - vectors.mean(axis=0, dtype=np.float64)
    _, lengths, axes = np.linalg.svd(centred, full_matrices=False)
    agreement = np.abs((fitted.components * axes[:dim].T).sum(axis=0))
    np.testing.assert_allclose(agreement, 1, atol=1e-5)
    np.testing.assert_allclose(fitted.explained, (lengths**2 / (lengths**2).sum())[:dim], atol=1e-6)
    assert list(fitted.explained) == sorted(fitted.explained, reverse=True)


def test_prefix_of_the_components_is_the_shorter_projection() -> None:
    """Cutting a vector short is the same as having asked for fewer dimensions."""
    long, short = (fit_pca("a", TALL, Projection("pca", dim)) for dim in (4, 2))
    np.testing.assert_array_equal(long.components[:, :2], short.components)


def test_whitened_components_have_variance_one() -> None:
    """Whitening makes every dimension count the same."""
    fitted = fit_pca("a", TALL, Projection("pca", 4, whiten=True))
    np.testing.assert_allclose(project(TALL, fitted).var(axis=0, ddof=1), 1, rtol=1e-4)


def test_signs_do_not_depend_on_the_library() -> None:
    """An axis and its opposite are both right; the largest coefficient is made positive."""
    components = fit_pca("a", TALL, Projection("pca", 4)).components
    assert (components[np.abs(components).argmax(axis=0), np.arange(4)] > 0).all()


@pytest.mark.parametrize(("vectors", "most"), [(TALL, 6), (WIDE, 19)])
def test_more_components_than_there_can_be_are_refused(vectors: np.ndarray[Any, Any], most: int) -> None:
    """Neither dimensions nor images can be exceeded, and the message says which there are."""
    with pytest.raises(ImpossibleProjection, match=f"Expected pca of at most {most} for the output a"):
        fit_pca("a", vectors, Projection("pca", most + 1))


def test_vectors_that_are_all_the_same_give_numbers() -> None:
    """A folder with one picture many times has no axes; what comes out is still finite."""
    fitted = fit_pca("a", np.ones((5, 3), np.float32), Projection("pca", 2, whiten=True))
    assert isinstance(fitted, FittedPca)
    assert np.isfinite(fitted.components).all()


def test_random_projection_keeps_lengths_in_expectation() -> None:
    """Distances between vectors survive, within what the number of dimensions allows."""
    vectors = NUMBERS.normal(size=(200, 3000))
    short = project(vectors, random_projection("a", 3000, Projection("random", 512)))
    ratios = np.linalg.norm(short, axis=1) / np.linalg.norm(vectors, axis=1)
    assert ratios.mean() == pytest.approx(1, abs=0.02)
    assert ratios.std() < 0.06


def test_random_projection_is_the_same_wherever_it_is_drawn() -> None:
    """The seed settles every number, by raw bits that no release of numpy may change."""
    fitted = random_projection("a", 6, Projection("random", 5, seed=1))
    assert fitted.rows.tolist() == ROWS
    assert fitted.columns.tolist() == COLUMNS
    assert np.sign(fitted.signs).astype(int).tolist() == SIGNS
    assert set(np.abs(fitted.signs)) == {np.float32(0.5)}


def test_another_seed_is_another_projection() -> None:
    """Independent projections have to be asked for."""
    one, two = (random_projection("a", 100, Projection("random", 8, seed=seed)) for seed in (1, 2))
    assert one.signs.tolist() != two.signs.tolist()


def test_random_projection_to_more_dimensions_is_refused() -> None:
    """It would only cost."""
    with pytest.raises(ImpossibleProjection, match="Expected random of at most 8 for the output a"):
        random_projection("a", 8, Projection("random", 9))
