"""Vectors in the number types that embedding APIs have: float, int8, uint8, and a bit for each number.

Vectors have the length 1 unless a request says otherwise, since clients of these contracts compare by dot product. int8
is written by the model's calibrated ranges, which are those of vectors as the model makes them.
"""

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.core.requests import Embedded
from service.core.vectors import shaped, written
from service.http.parameters import read_options

KINDS = ("float", "int8", "uint8", "binary", "ubinary")
"""`binary` and `ubinary` are one bit a number, packed into bytes that are signed or not."""

CALIBRATED = frozenset({"int8", "uint8"})
"""Those that need ranges."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Which numbers of a vector are answered.

    Attributes:
        dimensions: so many from its beginning, None for all.
        normalize: whether the vector then gets the length 1. Nothing else than its sign is left in a bit, and int8 has
            ranges of its own, so that it means nothing to these.
    """

    dimensions: int | None
    normalize: bool

    def rows(self, embedded: Embedded, kind: str = "float") -> NDArray[np.generic]:
        """Return vectors as rows of numbers, one for each image.

        Args:
            embedded: vectors of one output.
            kind: one of `KINDS`.

        Returns:
            little-endian float32, int8 or uint8 [N, dimensions]; for bits int8 or uint8 [N, ceil(dimensions / 8)], set
            where the number is greater than 0, most significant bit first.

        Raises:
            BadRequest: int8 or uint8, and the output has no ranges.
        """
        output = embedded.card.outputs[embedded.embeddings[0].output]
        normalize = self.normalize and kind == "float"
        vectors = np.stack(
            [shaped(e.vector, normalize=normalize, dimensions=self.dimensions) for e in embedded.embeddings]
        )
        if kind == "float":
            return written(vectors, "float32", output)
        if kind in CALIBRATED:
            return _offset(written(vectors, "int8", output), signed=kind == "int8")
        return _offset(written(vectors, "binary", output), signed=kind == "binary")


def shape_of(fields: Mapping[str, object], *, dimensions: str, normalize: str = "normalize") -> Shape:
    """Read which numbers a request asks for.

    Args:
        fields: of the request.
        dimensions: the name of the field that says how many.
        normalize: the name of the field that says whether they are normalised; absent means that they are.

    Raises:
        BadRequest: a value that does not fit.
    """
    options = read_options((), {"dimensions": fields.get(dimensions), "normalize": fields.get(normalize, True)})
    return Shape(options.dimensions, options.normalize)


def base64_of(row: NDArray[np.generic]) -> str:
    """Write a row's bytes in base64."""
    return b64encode(row.tobytes()).decode("ascii")


def _offset(rows: NDArray[np.generic], *, signed: bool) -> NDArray[np.generic]:
    """Make bytes signed or unsigned by shifting their values by 128, as these APIs do."""
    if signed == (rows.dtype == np.int8):
        return rows
    return (rows.view(np.uint8) ^ 0x80).view(np.int8 if signed else np.uint8)
