"""What is done to vectors after the cache: cut, normalised, written in fewer bits."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from microtome.errors import BadRequest
from service.core.vectors import checked_dimensions, heat, shaped, written
from tests.fakes.model_server import card

MEAN = card().outputs["mean"]
CALIBRATED = replace(MEAN, quantization={"scheme": "int8", "min": [0.0, -1.0, 5.0], "max": [255.0, 1.0, 5.0]})

FINITE = st.floats(-(2.0**100), 2.0**100, width=32)


@given(arrays(np.float32, st.integers(1, 40), elements=FINITE), st.data())
def test_a_normalised_cut_has_length_one(vector: np.ndarray, data: st.DataObject) -> None:
    """The prefix is normalised after the cut, without overflow; zeros stay zeros."""
    dimensions = data.draw(st.integers(1, len(vector)))
    found = shaped(vector, normalize=True, dimensions=dimensions)
    assert found.dtype == np.float32
    assert found.shape == (dimensions,)
    length = np.linalg.norm(found.astype(np.float64))
    assert length == pytest.approx(1.0, abs=1e-5) or not vector[:dimensions].any()


def test_nothing_asked_for_costs_nothing() -> None:
    """Without options the very array comes back."""
    vector = np.arange(3, dtype=np.float32)
    assert shaped(vector, normalize=False, dimensions=None) is vector


def test_heat_is_the_length_at_each_position() -> None:
    """Row by row, without overflow; all positions together have the length of the vector."""
    map_ = np.arange(24, dtype=np.float32) * np.float32(2.0**90)
    found = heat(map_, replace(MEAN, shape=(2, 3, 4)))
    np.testing.assert_allclose(found, np.linalg.norm(map_.reshape(6, 4).astype(np.float64), axis=1), rtol=1e-6)
    assert found.dtype == np.float32
    assert found.shape == (6,)
    assert np.linalg.norm(found.astype(np.float64)) == pytest.approx(np.linalg.norm(map_.astype(np.float64)), rel=1e-6)


def test_heat_needs_a_map() -> None:
    """The error says what there is, and what to do."""
    with pytest.raises(BadRequest, match=r"'mean' has the shape \[3\].*`pooling: none`"):
        heat(np.ones(3, np.float32), MEAN)


@pytest.mark.parametrize("dimensions", [0, 4, -1])
def test_a_cut_is_within_the_vector(dimensions: int) -> None:
    """One to D numbers can be kept, and the error says what D is."""
    with pytest.raises(BadRequest, match="from 1 to 3"):
        checked_dimensions(dimensions, [MEAN])


def test_int8_maps_the_calibrated_range_onto_all_steps() -> None:
    """The least number is -128, the greatest 127, what lies outside is clipped, and a constant is 0."""
    rows = np.array([[0, -1, 5], [255, 1, 5], [300, -9, 9]], np.float32)
    assert [[-128, -128, 0], [127, 127, 0], [127, -128, 0]] == written(rows, "int8", CALIBRATED).tolist()
    assert [[-128, -128]] == written(rows[:1, :2], "int8", CALIBRATED).tolist()


def test_int8_needs_a_calibrated_model() -> None:
    """A model without ranges says so instead of guessing."""
    with pytest.raises(BadRequest, match="not calibrated"):
        written(np.zeros((1, 3), np.float32), "int8", MEAN)


def test_signs_are_packed_most_significant_bit_first() -> None:
    """Nine numbers are two bytes; the first number is the first byte's highest bit."""
    row = np.array([[1, -1, 0, 2, -3, -1, -1, -1, 5]], np.float32)
    assert [[0b10010000, 0b10000000]] == written(row, "binary", MEAN).tolist()


@given(arrays(np.float32, (2, 5), elements=FINITE))
def test_float16_is_always_finite(rows: np.ndarray) -> None:
    """Beyond float16's range its largest number is written, and within it the nearest."""
    found = written(rows, "float16", MEAN)
    assert np.isfinite(found).all()
    assert np.dtype("<f2") == found.dtype
    small = np.abs(rows) < 60000
    np.testing.assert_allclose(found[small], rows[small], rtol=1e-3, atol=1e-7)
