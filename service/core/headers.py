"""Open an encoded image as far as its header, and refuse there what would cost too much further on.

Each check guards against a small file that asks for much memory or time. Only the first frame of an animation is ever
decoded, so that the number of frames needs no limit: the others are bytes, and those are counted already.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, UnidentifiedImageError

from service.errors import BrokenImage, ImageTooLarge, NotAnImage

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
"""What we decode. A list of our own: Pillow also opens formats that run an interpreter (EPS) or read other files."""

MAX_SIDE = 65_535
"""Pixels of the longer side; JPEG has no more. Resampling needs memory in proportion to it, whatever the shorter is."""

MAX_SCANS = 200
"""Of a progressive JPEG; real ones have about ten. Each costs a pass over the whole picture, and few bytes."""

_TILE_WIDTH, _TILE_LENGTH = 322, 323
_SMALL_TILE = 2048 * 2048


@contextmanager
def opened(encoded: bytes, max_pixels: int) -> Iterator[Image.Image]:
    """Read the header only, and refuse what is no image or too large.

    Args:
        encoded: the file's bytes.
        max_pixels: width times height above which the image is refused.

    Raises:
        NotAnImage: no format that we read.
        BrokenImage: the header is damaged in a way that its decoder notices.
        ImageTooLarge: more pixels, a longer side, more scans or larger tiles than the limits.
    """
    if not encoded:
        raise NotAnImage("Expected an encoded image, received 0 bytes.")
    try:
        image = Image.open(io.BytesIO(encoded), formats=FORMATS)
    except UnidentifiedImageError:
        raise NotAnImage(
            f"Expected an image in one of the formats {', '.join(FORMATS)}. "
            f"Received {len(encoded)} bytes that are none of them, or whose header is damaged."
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageTooLarge(f"Expected at most {max_pixels} pixels, received many times more.") from None
    except Exception as error:
        raise broken(None, error) from error
    with image:
        _check_size(image, max_pixels)
        _check_cost(image, encoded)
        yield image


def broken(format_: str | None, error: Exception) -> BrokenImage:
    """Word what a decoder said about a damaged image for the caller; decoders' own words are for their authors."""
    kind = f"{format_} image" if format_ else "image"
    if "truncated" in str(error).lower():
        return BrokenImage(f"The {kind} is truncated: its data ends before the picture does. Send the whole file.")
    return BrokenImage(f"The {kind} is corrupt and cannot be decoded.")


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageTooLarge(
            f"Expected at most {max_pixels} pixels, received {width} x {height} = {width * height}. "
            "Send a smaller copy: the model sees far fewer."
        )
    if max(width, height) > MAX_SIDE:
        raise ImageTooLarge(f"Expected sides of at most {MAX_SIDE} pixels, received {width} x {height}.")


def _check_cost(image: Image.Image, encoded: bytes) -> None:
    if image.format in {"JPEG", "MPO"}:
        # In a JPEG's data no other 0xFF 0xDA can stand; in a preview within its metadata a few.
        scans = encoded.count(b"\xff\xda")
        if scans > MAX_SCANS:
            raise ImageTooLarge(f"Expected a JPEG of at most {MAX_SCANS} scans, received {scans}.")
    elif image.format == "TIFF":
        # libtiff decodes whole tiles, also where they reach far beyond the picture.
        tags = getattr(image, "tag_v2", {})
        width, length = (tags.get(tag, 0) for tag in (_TILE_WIDTH, _TILE_LENGTH))
        room = max(_SMALL_TILE, 4 * image.width * image.height)
        if isinstance(width, int) and isinstance(length, int) and width * length > room:
            raise ImageTooLarge(f"Expected tiles no larger than the picture, received {width} x {length} pixels.")
