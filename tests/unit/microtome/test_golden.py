"""Golden vectors: the same images everywhere, and each kind of deviation is found where honest rounding is not."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from microtome.golden import GoldenCheck, golden_pixels, record, relative_l2, sketch_deviations, sketches
from microtome.manifest import TOLERANCES

Array = NDArray[Any]

SIDE = 32
WEIGHTS = {
    name: np.random.default_rng(seed).normal(size=(SIDE * SIDE * 3, 40)).astype(np.float32)
    for seed, name in enumerate(("one", "other"))
}


def model(pixels: Array, weights: Mapping[str, Array] = WEIGHTS) -> dict[str, Array]:
    """A network of one layer with two outputs of 40 numbers."""
    flat = pixels.reshape(len(pixels), -1).astype(np.float32) / 255
    return {name: np.maximum(flat @ matrix, 0) for name, matrix in weights.items()}


def checked(max_batch_size: int = 32) -> GoldenCheck:
    """The check of that network."""
    golden = record(1, model(golden_pixels(1, 0, 2, SIDE, SIDE)))
    return GoldenCheck(golden, dict.fromkeys(WEIGHTS, TOLERANCES["float32"]), (SIDE, SIDE, 3), max_batch_size)


def test_golden_pixels_are_the_same_bytes_on_every_platform() -> None:
    """The digest of a machine with NumPy 2 and x86-64; a release that makes other images must change the schema."""
    pixels = golden_pixels(1, 0, 4, 33, 70)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (4, 33, 70, 3)
    expected = "7daf0ed30384691277ad989fbb6922bf17be65d6464a219cfee1189fc328589b"
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == expected
    assert (golden_pixels(1, 2, 1, 33, 70) == pixels[2:3]).all()
    assert (golden_pixels(2, 0, 1, 33, 70) != pixels[0]).mean() > 0.9


@pytest.mark.parametrize("side", [8, 224, 380])
def test_golden_pixels_have_texture_at_every_scale(side: int) -> None:
    """Whatever an image is averaged over, it varies: none is flat, and single pixels are noise."""
    for image in golden_pixels(1, 0, 4, side, side).astype(float):
        for size in [size for size in (1, 2, 4, 8, 16) if 4 * size <= side]:
            cut = side // size * size
            means = image[:cut, :cut].reshape(cut // size, size, cut // size, size, 3).mean(axis=(1, 3))
            assert means.std() > 5, (side, size)
        assert np.abs(np.diff(image, axis=1)).mean() > 2


def test_the_network_itself_passes_alone_and_in_every_batch() -> None:
    """Four images alone and together; batches no larger than the version's own, and none of one."""
    for largest, sizes in {
        32: [1, 1, 1, 1, 4],
        4: [1, 1, 1, 1, 4],
        3: [1, 1, 1, 3],
        2: [1, 1, 1, 2],
        1: [1, 1],
    }.items():
        check = checked(largest)
        assert [len(pixels) for pixels in check.requests] == sizes
        deviations = check.deviations([model(pixels) for pixels in check.requests])
        assert max(deviations.values()) < 1e-5
        assert not check.beyond(deviations)


def noisy(answer: dict[str, Array]) -> dict[str, Array]:
    """Add noise of 3e-4 of the largest number."""
    numbers = np.random.default_rng()
    return {name: one + 3e-4 * one.max() * numbers.uniform(-1, 1, one.shape) for name, one in answer.items()}


def leaking(into: int, source: int) -> Callable[[Array], dict[str, Array]]:
    """Mix a thousandth of a row of a batch into another."""

    def answer(pixels: Array) -> dict[str, Array]:
        found = model(pixels)
        for one in found.values():
            if len(one) == 4:
                one[into] = 0.999 * one[into] + 0.001 * one[source]
        return found

    return answer


HALVES = {name: weights.astype(np.float16).astype(np.float32) for name, weights in WEIGHTS.items()}
FAULTS: dict[str, Callable[[Array], dict[str, Array]]] = {
    "noise of 3e-4 of the largest number": lambda pixels: noisy(model(pixels)),
    "two outputs swapped": lambda pixels: dict(zip(("other", "one"), model(pixels).values(), strict=True)),
    "weights rounded to float16": lambda pixels: model(pixels, HALVES),
    "zeros": lambda pixels: {name: 0 * one for name, one in model(pixels).items()},
    "not finite": lambda pixels: {name: one * np.nan for name, one in model(pixels).items()},
    "rows turned round": lambda pixels: {name: one[::-1] for name, one in model(pixels).items()},
    "colours the other way round": lambda pixels: model(pixels[..., ::-1]),
} | {
    f"row {source} leaks into row {into}": leaking(into, source)
    for into in range(4)
    for source in range(4)
    if into != source
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_kind_of_deviation_is_found(fault: str) -> None:
    """In every output, although the manifest has a few numbers of each vector only."""
    check = checked()
    deviations = check.deviations([FAULTS[fault](pixels) for pixels in check.requests])
    assert check.beyond(deviations).keys() == WEIGHTS.keys(), deviations


@pytest.mark.parametrize("dim", [1, 4, 8, 9, 64, 1280, 50_000])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_a_sketch_tells_the_distance_of_whole_vectors(dim: int, scale: float) -> None:
    """Within a factor of three, whatever the vectors' size: both of fp32's rounding and of what exceeds 1e-4."""
    numbers = np.random.default_rng(dim)
    vectors = scale * numbers.normal(size=(20, dim))
    for distance in (1e-6, 1e-3, 0.3):
        others = vectors * (1 + distance * numbers.normal(size=vectors.shape))
        found, exact = sketch_deviations(sketches(vectors), others), relative_l2(others, vectors)
        assert (found < 3 * exact + 1e-7).all()
        assert found.max() > exact.mean() / 3
    assert sketch_deviations(sketches(vectors), vectors).max() < 1e-7


def test_zeros_are_compared_without_dividing_by_them() -> None:
    """A dead output is equal to itself, and differs from one that lives."""
    dead, living = np.zeros((1, 20)), np.ones((1, 20))
    assert sketch_deviations(sketches(dead), dead) == 0
    assert sketch_deviations(sketches(dead), living) > 1
    assert relative_l2(dead, living) == 1


def test_a_manifest_is_read_as_it_is_written_and_version_1_has_no_check() -> None:
    """JSON gives the same check; each output needs its vectors."""
    check = checked()
    document: dict[str, Any] = {
        "golden": asdict(check.golden),
        "input": {"height": SIDE, "width": SIDE},
        "outputs": [{"name": name, "tolerance": 1e-4} for name in WEIGHTS],
        "max_batch_size": 32,
    }
    assert GoldenCheck.read(document) == check
    assert GoldenCheck.read({"schema": 1}) is None
    damaged: tuple[dict[str, Any], ...] = (
        {"golden": {}},
        {"golden": {**document["golden"], "inputs": 3}},
        {"outputs": document["outputs"][:1]},
        {"outputs": [{"name": name} for name in WEIGHTS]},
        {"golden": 7},
    )
    for change in damaged:
        with pytest.raises(ValueError, match="golden: "):
            GoldenCheck.read({**document, **change})
