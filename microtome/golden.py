"""Golden vectors: what a model answers to synthetic images, recorded at export and checked wherever it is served.

The images are made by integer arithmetic from a seed, so every platform and NumPy release makes the same bytes. They
have texture at several scales and noise, since flat images are ill-conditioned: two right float32 libraries differ by
7.5e-5 on mid grey, by 1e-6 on texture.

Of each vector the manifest keeps its first numbers, its length, and its products with a few fixed vectors of signs. Of
the difference of two vectors, these tell the length: the first two exactly, from below; the third by estimate.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microtome.manifest import CHANNELS, TOLERANCES, Golden, GoldenVector, Manifest, TokensSpec

Array = NDArray[Any]
Pixels = NDArray[np.uint8]
Tokens = NDArray[np.int32]

SEED = 1
INPUTS = 2
"""Recorded for each output."""

_HEAD, _PROBES, _DIGITS = 8, 12, 8
_SCALES = (6, 5, 4, 3, 2, 1, 0)
"""Of the texture, as binary logarithms of pixels."""
_WEIGHTS = ((12, 10, 8, 6, 4, 3, 2), (4, 4, 4, 4, 6, 8, 10))
"""Of the scales, for every other image: as in photos, and with much noise."""


def golden_pixels(seed: int, first: int, count: int, height: int, width: int, channels: int = 3) -> Pixels:  # noqa: PLR0913, PLR0917
    """Return synthetic images `first` to `first + count - 1` of a seed, uint8 [count, height, width, channels]."""
    return np.stack([_image(seed, first + index, (height, width, channels)) for index in range(count)])


def golden_tokens(seed: int, first: int, count: int, length: int, vocabulary: int, pad: int) -> Tokens:  # noqa: PLR0913, PLR0917
    """Return synthetic texts `first` to `first + count - 1` of a seed, int32 [count, length] token ids.

    Every other one fills its length; of the others the second half is padding.
    """
    found = np.full((count, length), pad, np.int32)
    for row in range(count):
        index = first + row
        size = length if index % 2 == 0 else max(1, length // 2)
        key = _mixed(_mixed(np.array([seed], np.uint32)) + np.uint32(index))
        found[row, :size] = _mixed(np.arange(size, dtype=np.uint32) ^ key) % np.uint32(vocabulary)
    return found


def _image(seed: int, index: int, shape: tuple[int, int, int]) -> Pixels:
    weights = _WEIGHTS[index % len(_WEIGHTS)]
    total = np.zeros(shape, np.int32)
    for scale, weight in zip(_SCALES, weights, strict=True):
        total += weight * _noise(seed, 16 * index + scale, scale, shape)
    # The mean of several scales varies less than each of them.
    contrast = 2 * total // sum(weights) - 128
    return contrast.clip(0, 255).astype(np.uint8)


def _noise(seed: int, stream: int, scale: int, shape: tuple[int, int, int]) -> NDArray[np.int32]:
    """Return random numbers at every `2 ** scale` pixels, bilinear between them: 0 to 255, of this shape."""
    height, width, channels = shape
    step = 1 << scale
    rows, columns = (height >> scale) + 2, (width >> scale) + 2
    key = _mixed(_mixed(np.array([seed], np.uint32)) + np.uint32(stream))
    lattice = (_mixed(np.arange(rows * columns * channels, dtype=np.uint32) ^ key) >> np.uint32(24)).astype(np.int32)
    lattice = lattice.reshape(rows, columns, channels)
    y, x = np.arange(height), np.arange(width)
    down = (y & (step - 1)).astype(np.int32)[:, None, None]
    right = (x & (step - 1)).astype(np.int32)[None, :, None]
    between = lattice[y >> scale] * (step - down) + lattice[(y >> scale) + 1] * down
    mixed = between[:, x >> scale] * (step - right) + between[:, (x >> scale) + 1] * right
    found: NDArray[np.int32] = mixed >> (2 * scale)
    return found


def _mixed(numbers: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Hash 32-bit numbers: https://github.com/skeeto/hash-prospector, lowbias32."""
    numbers = (numbers ^ (numbers >> np.uint32(16))) * np.uint32(0x7FEB352D)
    numbers = (numbers ^ (numbers >> np.uint32(15))) * np.uint32(0x846CA68B)
    return numbers ^ (numbers >> np.uint32(16))


def _signs(length: int) -> NDArray[np.uint32]:
    return _mixed(np.arange(length, dtype=np.uint32) + np.uint32(0x9E3779B9))


def sketches(vectors: Array) -> list[GoldenVector]:
    """Return what is recorded of vectors [N, ...], one for each."""
    flat = np.ascontiguousarray(vectors, np.float64).reshape(len(vectors), -1)
    signs, total = _signs(flat.shape[1]), flat.sum(axis=1)
    products = [2 * (flat @ (signs >> np.uint32(bit) & np.uint32(1))) - total for bit in range(_PROBES)]
    probes, norms = np.stack(products, axis=1), np.linalg.norm(flat, axis=1)
    return [
        GoldenVector(_rounded(row[:_HEAD]), _rounded(norm)[0], _rounded(probe))
        for row, norm, probe in zip(flat, norms, probes, strict=True)
    ]


def _rounded(numbers: Array) -> tuple[float, ...]:
    return tuple(float(f"{number:.{_DIGITS}g}") for number in np.atleast_1d(numbers))


def record(seed: int, vectors: Mapping[str, Array]) -> Golden:
    """Return the golden vectors of a manifest.

    Args:
        seed: of the images.
        vectors: the reference answers to `golden_pixels(seed, 0, N, …)`, [N, ...] by output.
    """
    (inputs,) = {len(found) for found in vectors.values()}
    return Golden(seed, inputs, {name: tuple(sketches(found)) for name, found in vectors.items()})


def sketch_deviations(recorded: Sequence[GoldenVector], vectors: Array) -> NDArray[np.float64]:
    """Return the relative L2 difference of vectors [N, ...] from what is recorded, [N]; infinite where not comparable.

    It is exact for vectors of up to 8 numbers, and else an estimate within a factor of 1.7 in 99 of 100 cases.
    """
    return np.array([_sketch_deviation(one, other) for one, other in zip(recorded, sketches(vectors), strict=True)])


def _sketch_deviation(one: GoldenVector, other: GoldenVector) -> float:
    if len(one.head) != len(other.head) or not np.isfinite((*other.head, other.norm, *other.probes)).all():
        return float("inf")
    head = float(np.linalg.norm(np.subtract(one.head, other.head)))
    # A later release may record more of them: those of the same place are the same.
    pairs = np.array(list(zip(one.probes, other.probes, strict=False)))
    probes = float(np.sqrt(np.mean((pairs[:, 0] - pairs[:, 1]) ** 2))) if len(pairs) else 0.0
    whole = len(one.head) < _HEAD  # the head is all of it
    return (head if whole else max(head, abs(one.norm - other.norm), probes)) / (one.norm or 1.0)


def relative_l2(actual: Array, expected: Array) -> NDArray[np.float64]:
    """Return the relative L2 difference of vectors [N, ...] from others, [N]; the absolute one from zeros."""
    one, other = (np.asarray(side, np.float64).reshape(len(side), -1) for side in (actual, expected))
    norms = np.linalg.norm(other, axis=1)
    found = np.linalg.norm(one - other, axis=1) / np.where(norms > 0, norms, 1.0)
    return np.where(np.isfinite(found), found, np.inf)


@dataclass(frozen=True)
class GoldenCheck:
    """The check of one version: send `requests` to it, each with all outputs, and give the answers to `deviations`.

    Each golden input goes alone and in a batch of four with others, where no row may depend on another.

    Attributes:
        golden: of the manifest.
        tolerances: largest deviation by output, relative L2.
        shape: of one input: height, width and channels of an image, or the length of a text.
        max_batch_size: the version's own; a smaller one makes a smaller batch.
        vocabulary: number of token ids, for texts.
        pad: the id of padding, for texts.
    """

    golden: Golden
    tolerances: Mapping[str, float]
    shape: tuple[int, ...]
    max_batch_size: int
    vocabulary: int = 0
    pad: int = 0

    def __post_init__(self) -> None:
        """Check that each output has its golden vectors.

        Raises:
            ValueError: one has not.
        """
        counts = {len(recorded) for recorded in self.golden.vectors.values()}
        if self.golden.vectors.keys() != self.tolerances.keys() or counts != {self.golden.inputs} or 0 in counts:
            raise ValueError("golden: expected the vectors of each output for each input")

    @classmethod
    def of(cls, manifest: Manifest) -> "GoldenCheck | None":
        """Return the check of a manifest; None when it has no golden vectors, as in version 1.

        Raises:
            ValueError: an output has no golden vectors.
        """
        if manifest.golden is None:
            return None
        tolerances = {output.name: output.tolerance or TOLERANCES["float32"] for output in manifest.outputs}
        taken = manifest.input
        ids = (taken.vocabulary, taken.pad) if isinstance(taken, TokensSpec) else ()
        return cls(manifest.golden, tolerances, taken.shape, manifest.max_batch_size, *ids)

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> "GoldenCheck | None":
        """Return the check of a manifest as JSON; see `of`.

        Raises:
            ValueError: the document is no such manifest.
        """
        try:
            if document.get("golden") is None:
                return None
            golden, taken = document["golden"], document["input"]
            vectors = {
                name: tuple(GoldenVector(tuple(one["head"]), float(one["norm"]), tuple(one["probes"])) for one in found)
                for name, found in golden["vectors"].items()
            }
            tolerances = {output["name"]: float(output["tolerance"]) for output in document["outputs"]}
            recorded = Golden(int(golden["seed"]), int(golden["inputs"]), vectors)
            most = int(document["max_batch_size"])
            if taken.get("kind") == "tokens":
                ids = int(taken["vocabulary"]), int(taken["pad"])
                return cls(recorded, tolerances, (int(taken["length"]),), most, *ids)
            shape = int(taken["height"]), int(taken["width"]), CHANNELS[taken.get("color", "rgb")]
            return cls(recorded, tolerances, shape, most)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"golden: {error!r}") from error

    @cached_property
    def requests(self) -> list[Array]:
        """The requests: every input alone, then four of them together.

        Each is uint8 [n, height, width, channels], or int32 [n, length] for a text tower.
        """
        together = self._together
        count = max((*together, self.golden.inputs - 1)) + 1
        seed = self.golden.seed
        inputs: Array = (
            golden_tokens(seed, 0, count, self.shape[0], self.vocabulary, self.pad)
            if self.vocabulary
            else golden_pixels(seed, 0, count, *self.shape)
        )
        alone = [inputs[row : row + 1] for row in range(count)]
        return [*alone, inputs[together]] if together else alone

    @property
    def _together(self) -> list[int]:
        """The images of the batch: golden and others take turns, so a leak from a row to its neighbour reaches both."""
        golden = self.golden.inputs
        rows = [0, golden, 1, golden + 1] if golden > 1 else [0, 1, 2, 3]
        return rows[: self.max_batch_size] if self.max_batch_size > 1 else []

    def deviations(self, answers: Sequence[Mapping[str, Array]]) -> dict[str, float]:
        """Return the largest deviation of each output, relative L2.

        Args:
            answers: to `requests`, in their order, each [n, ...] by output.
        """
        return {name: self._deviation(name, [answer[name] for answer in answers]) for name in self.tolerances}

    def _deviation(self, name: str, answers: Sequence[Array]) -> float:
        recorded, order = self.golden.vectors[name], self._together
        found = [sketch_deviations(recorded, np.concatenate(answers[: len(recorded)]))]
        if order:
            together = answers[-1]
            found.append(relative_l2(together, np.concatenate([answers[row] for row in order])))
            places = [place for place, row in enumerate(order) if row < len(recorded)]
            found.append(sketch_deviations([recorded[order[place]] for place in places], together[places]))
        return float(max(part.max() for part in found))

    def beyond(self, deviations: Mapping[str, float]) -> dict[str, float]:
        """Return the deviations that exceed the tolerance of their output."""
        return {name: found for name, found in deviations.items() if not found <= self.tolerances[name]}
