"""Write responses of embedding APIs: vectors as float, int8, uint8 or bits, and facts about the images.

Vectors are normalised unless a request says otherwise, since clients of these contracts compare by dot product. int8
uses the model's calibrated ranges, which are those of the vectors as the model outputs them.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.responses import Response

from microtome.errors import RequestRejected
from microtome.opening import FORMATS, opened
from service.core.remote_images import Image
from service.core.requests import Embedded
from service.core.vectors import shaped, written
from service.http.parameters import read_options

_NO_LIMIT = 1 << 62
"""The core has already refused images that are too large."""

_BIT_DEPTHS = {"1": 1, "L": 8, "P": 8, "LA": 16, "RGB": 24, "YCbCr": 24, "RGBA": 32, "CMYK": 32, "I;16": 16, "I": 32}


class ImageFacts(NamedTuple):
    """Width and height in pixels, the format's name in lower case, and bits per pixel."""

    width: int
    height: int
    format: str
    bit_depth: int


def image_facts(images: Sequence[Image]) -> list[ImageFacts]:
    """Read the headers of the images that came with the request; fetched ones are not available any more.

    Takes most of a millisecond for each image: run it in a thread.
    """
    found = []
    for image in images:
        if isinstance(image, bytes):
            try:
                with opened(image, _NO_LIMIT, FORMATS) as header:
                    depth = _BIT_DEPTHS.get(header.mode, 24)
                    found.append(ImageFacts(*header.size, (header.format or "").lower(), depth))
            except RequestRejected:
                continue
    return found


NUMBER_TYPES = ("float", "int8", "uint8", "binary", "ubinary")
"""`binary` and `ubinary` are one bit a number, packed into signed or unsigned bytes."""

CALIBRATED = frozenset({"int8", "uint8"})
"""Number types that need calibrated ranges."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How vectors are cut and normalised.

    Attributes:
        dimensions: numbers to keep from the beginning, None for all.
        normalize: whether vectors are then normalised. Only applies to floats: bits keep only signs, and int8 has
            calibrated ranges.
    """

    dimensions: int | None
    normalize: bool

    def rows(self, embedded: Embedded, kind: str = "float") -> NDArray[np.generic]:
        """Return the vectors of one output as rows, one for each image.

        Args:
            embedded: vectors of one output.
            kind: one of `NUMBER_TYPES`.

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
    """Read how vectors are to be cut and normalised.

    Args:
        fields: of the request.
        dimensions: name of the field with the number of dimensions.
        normalize: name of the field that says whether to normalise, by default true.

    Raises:
        BadRequest: a value that does not fit.
    """
    options = read_options((), {"dimensions": fields.get(dimensions), "normalize": fields.get(normalize, True)})
    return Shape(options.dimensions, options.normalize)


def base64_of(row: NDArray[np.generic]) -> str:
    """Return a row's bytes as base64."""
    return b64encode(row.tobytes()).decode("ascii")


def listed(rows: NDArray[np.generic], *, base64: bool) -> list[dict[str, object]]:
    """Return rows as OpenAI's objects: lists of numbers, or their bytes as base64."""
    return [
        {"object": "embedding", "index": index, "embedding": base64_of(row) if base64 else row}
        for index, row in enumerate(rows)
    ]


def _offset(rows: NDArray[np.generic], *, signed: bool) -> NDArray[np.generic]:
    """Convert between signed and unsigned bytes by shifting values by 128, as these APIs do."""
    if signed == (rows.dtype == np.int8):
        return rows
    return (rows.view(np.uint8) ^ 0x80).view(np.int8 if signed else np.uint8)


def json_response(body: Mapping[str, object]) -> Response:
    """Write a response as JSON; arrays become lists of numbers."""
    return Response(orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")
