"""Verification: what is wrong is found, and what is found is told."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from exporter.backbones import BACKBONES
from exporter.building import Built
from exporter.errors import VerificationFailed
from exporter.fingerprint import fingerprint
from exporter.freezing import freeze
from exporter.manifest import describe
from exporter.publication import ASSETS, MANIFEST_FILE
from exporter.saved_model import write_saved_model
from exporter.slicing import Slice, cut
from exporter.verification import relative_error, verify
from tests.unit.exporter.small_models import DEEP, MAP, PIXELS, VECTOR, small_backbone, small_recipe

RECIPE = small_recipe(VECTOR, DEEP, MAP)


def written(directory: Path, built: Built) -> Slice:
    """Write a SavedModel of the small backbone, without a draft around it."""
    slice_ = cut(built, RECIPE)
    frozen = freeze(slice_, PIXELS)
    manifest = describe(RECIPE, slice_, fingerprint(frozen, PIXELS))
    write_saved_model(directory, frozen, manifest)
    (directory / ASSETS).mkdir()
    (directory / ASSETS / MANIFEST_FILE).write_text(manifest, encoding="utf-8")
    return slice_


def test_faithful_saved_model_passes(tmp_path: Path) -> None:
    """Average, maximum and no pooling behind a scaling all equal Keras and numpy."""
    verify(tmp_path, written(tmp_path, small_backbone()))


def test_other_weights_are_found(tmp_path: Path) -> None:
    """A SavedModel of other weights than the slice's is refused, with the output and the error."""
    written(tmp_path, small_backbone(seed=1))
    with pytest.raises(
        VerificationFailed, match=r"output vector to equal Keras .* Received: \d.*Nothing was published"
    ):
        verify(tmp_path, cut(small_backbone(seed=2), RECIPE))


def test_wrong_scaling_is_found(tmp_path: Path) -> None:
    """A graph that scales pixels otherwise than Keras' own `preprocess_input` is refused."""
    written(tmp_path, replace(small_backbone(), row=replace(BACKBONES["MobileNet"], scaling="torch")))
    with pytest.raises(VerificationFailed, match="to equal Keras"):
        verify(tmp_path, cut(small_backbone(), RECIPE))


def test_vectors_that_are_not_numbers_are_found(tmp_path: Path) -> None:
    """NaN equals nothing, not even Keras' own NaN."""
    built = small_backbone()
    built.model.get_layer("conv").kernel.assign(np.full((3, 3, 3, 4), math.nan))
    slice_ = written(tmp_path, built)
    with pytest.raises(VerificationFailed, match="Received: nan"):
        verify(tmp_path, slice_)


def test_manifest_that_differs_from_the_signature_is_found(tmp_path: Path) -> None:
    """The file for people and the signature for the gateway say the same."""
    slice_ = written(tmp_path, small_backbone())
    (tmp_path / ASSETS / MANIFEST_FILE).write_text("{}", encoding="utf-8")
    with pytest.raises(VerificationFailed, match="manifest signature to answer"):
        verify(tmp_path, slice_)


def test_signature_that_differs_from_the_slice_is_found(tmp_path: Path) -> None:
    """An output too few is refused before any number is compared."""
    written(tmp_path, small_backbone())
    with pytest.raises(VerificationFailed, match="Expected the signature outputs"):
        verify(tmp_path, cut(small_backbone(), small_recipe(VECTOR)))


@pytest.mark.parametrize(
    ("actual", "expected", "error"),
    [
        ([[1.0, 2.0]], [[1.0, 2.0]], 0.0),
        ([[1.0, 2.2]], [[1.0, 2.0]], 0.1),
        ([[9.0, 9.0], [0.0, 0.011]], [[9.0, 9.0], [0.0, 0.01]], 0.1),
        ([[0.0, 0.0]], [[0.0, 0.0]], 0.0),
        ([[math.nan, 0.0]], [[0.0, 1.0]], math.nan),
    ],
)
def test_relative_error_is_that_of_the_worst_image(actual: object, expected: object, error: float) -> None:
    """An image with small values is held to its own scale, not to its neighbour's."""
    found = relative_error(np.array(actual, np.float32), np.array(expected, np.float32))
    assert found == pytest.approx(error, rel=1e-4, nan_ok=True)
