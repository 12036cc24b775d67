"""What some contracts tell a caller about its own images, read off their headers."""

from collections.abc import Sequence
from typing import NamedTuple

from microtome.preprocessing import opened
from service.core.remote_images import Image
from service.errors import RequestRejected

_NO_LIMIT = 1 << 62
"""The core has refused by now what is too large."""

_BIT_DEPTHS = {"1": 1, "L": 8, "P": 8, "LA": 16, "RGB": 24, "YCbCr": 24, "RGBA": 32, "CMYK": 32, "I;16": 16, "I": 32}


class ImageFacts(NamedTuple):
    """Width and height in pixels, the format's name in small letters, and bits for each pixel."""

    width: int
    height: int
    format: str
    bit_depth: int


def facts(images: Sequence[Image]) -> list[ImageFacts]:
    """Read the headers of those images that came with the request; what lay elsewhere is not here any more.

    Takes a good part of a millisecond for each: not for the event loop.
    """
    found = []
    for image in images:
        if isinstance(image, bytes):
            try:
                with opened(image, _NO_LIMIT) as header:
                    depth = _BIT_DEPTHS.get(header.mode, 24)
                    found.append(ImageFacts(*header.size, (header.format or "").lower(), depth))
            except RequestRejected:
                continue
    return found
