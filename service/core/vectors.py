"""Cut a vector, normalise it, and write it in fewer bits, between the cache and the caller.

The raw float32 vector is cached; everything here happens after, so it costs no inference.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from microtome.errors import BadRequest
from microtome.manifest import OutputSpec

Dtype = Literal["float32", "float16", "int8", "binary"]
"""How a vector's numbers are written; `binary` is one bit for each, eight to a byte."""

_LARGEST_FLOAT16 = 65504.0


def shaped(vector: NDArray[np.float32], *, normalize: bool, dimensions: int | None) -> NDArray[np.float32]:
    """Cut a vector to its first numbers and give it the length 1.

    Args:
        vector: float32 [D].
        normalize: divide by the Euclidean length, after the cut; a vector of zeros stays as it is.
        dimensions: how many numbers to keep, from 1 to D; None keeps all.

    Returns:
        float32 [dimensions], the same array when nothing was asked for.
    """
    cut = vector if dimensions is None else vector[:dimensions]
    if not normalize:
        return cut
    # In float64, since squares of large float32 numbers overflow, and small ones have few digits.
    wide = cut.astype(np.float64)
    length = np.sqrt(np.dot(wide, wide))
    return cut if length == 0.0 else (wide / length).astype(np.float32)


def heat(vector: NDArray[np.float32], output: OutputSpec) -> NDArray[np.float32]:
    """Return where a layer is active: at each position of its map the length of the vector there.

    Args:
        vector: float32 [H * W * C], row by row.
        output: whose `shape` is (H, W, C).

    Returns:
        float32 [H * W], row by row, none below 0. Its length is that of `vector`.

    Raises:
        BadRequest: the output keeps no map.
    """
    require_maps([output])
    wide = vector.reshape(-1, output.shape[-1]).astype(np.float64)
    squares: NDArray[np.float64] = np.einsum("pc,pc->p", wide, wide)
    return np.sqrt(squares).astype(np.float32)


def require_maps(outputs: Sequence[OutputSpec]) -> None:
    """Refuse `heat` where there is no map, before any work.

    Raises:
        BadRequest: an output's shape is not (height, width, channels).
    """
    for output in outputs:
        if len(output.shape) != 3:
            raise BadRequest(
                f"Expected outputs that keep their map, which `heat` needs; output {output.name!r} has the shape "
                f"{list(output.shape)}. Ask for another, or export one with `pooling: none`."
            )


def checked_dimensions(dimensions: int | None, outputs: Sequence[OutputSpec]) -> None:
    """Refuse a cut that is longer than a vector.

    Raises:
        BadRequest: `dimensions` is not in 1..D of every output.
    """
    for output in outputs:
        if dimensions is not None and not 1 <= dimensions <= output.dim:
            raise BadRequest(
                f"Expected `dimensions` from 1 to {output.dim}, which output {output.name!r} has; "
                f"received {dimensions}."
            )


def written(vectors: NDArray[np.float32], dtype: Dtype, output: OutputSpec) -> NDArray[np.generic]:
    """Write vectors in fewer bits.

    Args:
        vectors: float32 [N, D], D being the output's dimension or less.
        dtype: float32 as it is; float16 rounded to nearest, beyond its range its largest number; int8 by the manifest's
            ranges, which become -128..127; binary one bit a number, set where it is greater than 0, most significant
            bit first, the last byte filled up with zeros (`numpy.packbits`).
        output: where the ranges for int8 are taken from.

    Returns:
        little-endian [N, D], for binary uint8 [N, ceil(D / 8)].

    Raises:
        BadRequest: int8, and the output has no ranges.
    """
    if dtype == "float32":
        return vectors.astype("<f4", copy=False)
    if dtype == "float16":
        return np.clip(vectors, -_LARGEST_FLOAT16, _LARGEST_FLOAT16).astype("<f2")
    if dtype == "binary":
        return np.packbits(vectors > 0, axis=-1)
    low, high = _ranges(output, vectors.shape[-1])
    # A number that never varied has no range; it becomes the middle.
    span = np.where(high > low, high - low, 1.0)
    steps = np.where(high > low, (vectors - low) / span * 255.0 - 128.0, 0.0)
    return np.clip(np.rint(steps), -128, 127).astype(np.int8)


def require_quantization(outputs: Sequence[OutputSpec]) -> None:
    """Refuse int8 where it is not calibrated, before any work.

    Raises:
        BadRequest: an output has no ranges.
    """
    for output in outputs:
        _ranges(output, output.dim)


def _ranges(output: OutputSpec, dimensions: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    found = output.quantization
    if found is None or found.get("scheme") != "int8":
        raise BadRequest(
            f"Expected an encoding that output {output.name!r} has; received int8, for which its model was not "
            "calibrated. Take float16 or binary, or export the model with calibration images."
        )
    low, high = (np.asarray(found[name], np.float32)[:dimensions] for name in ("min", "max"))
    return low, high
