"""Tensors as the protocol has them, and the images that lie in them."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from service.core.remote_images import Image
from service.errors import BadRequest, ImageTooLarge, TooManyImages

IMAGE = "image"
_NAMES = (IMAGE, "images")
_LENGTH = struct.Struct("<I")
_EXPECTED = (
    "Expected one input `image`: datatype BYTES and shape [N], each element an encoded image; or UINT8 and "
    "[N, height, width, 3]"
)


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor: values as little-endian bytes in row-major order, BYTES elements each after its length (uint32)."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes


def one_input(tensors: Sequence[Tensor]) -> Tensor:
    """Return the only input.

    Raises:
        BadRequest: there is none, there are several, or it has another name.
    """
    if len(tensors) != 1 or tensors[0].name not in _NAMES:
        named = ", ".join(repr(tensor.name[:40]) for tensor in tensors[:4]) or "none"
        raise BadRequest(f"{_EXPECTED}. Received: {named}.")
    return tensors[0]


def images_in(tensor: Tensor, *, max_images: int, max_bytes: int) -> list[Image]:
    """Return the images that lie in an input.

    Args:
        tensor: the input.
        max_images: of a request.
        max_bytes: of one image; one that has more is returned as its error.

    Raises:
        BadRequest: another datatype or shape, or data that does not fit them.
        TooManyImages: more than `max_images`.
    """
    count = tensor.shape[0] if tensor.shape else 0
    if count > max_images:
        raise TooManyImages(f"Expected at most {max_images} images a request, received {count}.")
    if tensor.datatype == "BYTES" and count >= 1 and prod(tensor.shape) == count:
        found = elements(tensor.data, count)
    elif tensor.datatype == "UINT8" and len(tensor.shape) == 4 and tensor.shape[3] == 3 and prod(tensor.shape) > 0:
        found = _pictures(tensor)
    else:
        raise BadRequest(f"{_EXPECTED}. Received {tensor.datatype[:20]} and {list(tensor.shape)[:8]}.")
    return [
        image
        if len(image) <= max_bytes
        else ImageTooLarge(f"Expected at most {max_bytes} bytes an image, received {len(image)}.")
        for image in found
    ]


def elements(data: bytes, count: int) -> list[bytes]:
    """Take the elements of a BYTES tensor apart.

    Raises:
        BadRequest: the lengths do not add up.
    """
    found: list[bytes] = []
    at = 0
    while at + _LENGTH.size <= len(data) and len(found) < count:
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        found.append(data[at : at + length])
        at += length
    if at != len(data) or len(found) != count:
        raise BadRequest(
            f"Expected {count} elements, each after its length in 4 bytes (little-endian); received {len(data)} bytes "
            "that do not divide so."
        )
    return found


def element(data: bytes) -> bytes:
    """Write one element of a BYTES tensor."""
    return _LENGTH.pack(len(data)) + data


def _pictures(tensor: Tensor) -> list[bytes]:
    """Put pixels into the plainest format there is, Netpbm's: the core takes encoded images, and names them by hash."""
    count, height, width, _ = tensor.shape
    size = height * width * 3
    if len(tensor.data) != count * size:
        raise BadRequest(f"Expected {count * size} bytes for shape {list(tensor.shape)}, received {len(tensor.data)}.")
    head = b"P6 %d %d 255\n" % (width, height)
    return [head + tensor.data[number * size : (number + 1) * size] for number in range(count)]
