"""Turn encoded images into a model's input pixels: sniff, check the size, decode, orient, convert to RGB, resize, crop.

The gateway, the exporter and bulk embedding all call `decode`: models are fitted, verified and served on the same
pixels. Each limit is enforced on the header, before the step it protects, so a decompression bomb is refused while it
is small. Only the first frame of an animation is decoded, so the number of frames needs no limit.
Nothing here starts threads: callers run `decode` off their event loop.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from microtome.errors import BrokenImage, ImageTooLarge, NotAnImage
from microtome.manifest import InputSpec

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
"""Formats that are decoded. Pillow also opens formats that run an interpreter (EPS) or read other files."""

MAX_SIDE = 65_535
"""Largest side in pixels, as in JPEG. Resampling needs memory in proportion to it, whatever the other side is."""

MAX_SCANS = 200
"""Scans of a progressive JPEG; real ones have about ten. Each costs a pass over the whole picture, and few bytes."""

RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

REDUCING_GAP = 2.0
"""A scaled JPEG is decoded at this multiple of the target size or more, then resampled: as in Image.thumbnail."""

_LARGEST_DETOUR = 16
"""Largest area after resizing and before the crop, in multiples of the model's input."""

_EXIF_ORIENTATION = 0x0112
_EXIF_TURNED = frozenset({2, 3, 4, 5, 6, 7, 8})
_EXIF_TRANSPOSED = frozenset({5, 6, 7, 8})

_TILE_WIDTH, _TILE_LENGTH = 322, 323
_SMALL_TILE = 2048 * 2048


class Placement(NamedTuple):
    """Resize the image to `size` (width, height), then cut the model's window with its corner at (left, top)."""

    size: tuple[int, int]
    left: int
    top: int


def decode(encoded: bytes, spec: InputSpec, *, max_pixels: int) -> NDArray[np.uint8]:
    """Decode one image as the model's manifest specifies.

    Colours are Keras': `convert("RGB")` for every mode; of an animation the first frame.

    Args:
        encoded: the file's bytes.
        spec: the manifest's `input`.
        max_pixels: width times height above which the image is refused before it is decoded.

    Returns:
        uint8 [height, width, 3], RGB, C-contiguous.

    Raises:
        NotAnImage: in none of `FORMATS`.
        ImageTooLarge: more pixels than `max_pixels`, or a longer side, more scans or larger tiles than the limits.
        BrokenImage: truncated or corrupt.
    """
    with opened(encoded, max_pixels) as image, _as_broken_image(image.format):
        scaled = spec.jpeg_draft and image.format == "JPEG"
        placement = _place_draft(image, spec) if scaled else None
        # Some formats tell their orientation only at their end, and Pillow turns a TIFF while loading it.
        image.load()
        upright = _upright(image) if spec.exif_orientation else image
        rgb = upright if upright.mode == "RGB" else upright.convert("RGB")
        return _fit(rgb, placement or place(rgb.size, spec), spec, REDUCING_GAP if scaled else None)


@contextmanager
def opened(encoded: bytes, max_pixels: int) -> Iterator[Image.Image]:
    """Read the header of an image, and refuse what is no image or too large.

    Args:
        encoded: the file's bytes.
        max_pixels: width times height above which the image is refused.

    Raises:
        NotAnImage: in none of `FORMATS`.
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
    """Word a decoder's error for the caller; decoders' own messages are for their authors."""
    kind = f"{format_} image" if format_ else "image"
    if "truncated" in str(error).lower():
        return BrokenImage(f"The {kind} is truncated: its data ends before the picture does. Send the whole file.")
    return BrokenImage(f"The {kind} is corrupt and cannot be decoded.")


def place(stored: tuple[int, int], spec: InputSpec) -> Placement:
    """Compute how an upright image of `stored` (width, height) pixels becomes the model's window.

    * squash: resized to the window, aspect ratio ignored; `keras.utils.load_img(target_size=…)`.
    * shortest-side: the shorter side becomes `shortest_side`, the longer one follows, rounded down; then the centre is
      cut out. The arithmetic is that of torchvision's `Resize` and `CenterCrop`, so vectors are comparable.
    * letterbox: the longer side fits the window, and the rest is black, equally on both sides.
    """
    width, height = stored
    if spec.resize == "squash":
        return Placement((spec.width, spec.height), 0, 0)
    if spec.resize == "shortest-side":
        side = spec.shortest_side or min(spec.width, spec.height)
        size = (side, int(side * height / width)) if width <= height else (int(side * width / height), side)
        return _centered(size, spec)
    ratio = min(spec.width / width, spec.height / height)
    return _centered((max(1, round(width * ratio)), max(1, round(height * ratio))), spec)


def _centered(size: tuple[int, int], spec: InputSpec) -> Placement:
    return Placement(size, round((size[0] - spec.width) / 2), round((size[1] - spec.height) / 2))


def _place_draft(image: Image.Image, spec: InputSpec) -> Placement:
    """Request a scaled decode from libjpeg, which must precede loading, and place the image by its full size."""
    transposed = spec.exif_orientation and image.getexif().get(_EXIF_ORIENTATION) in _EXIF_TRANSPOSED
    placement = place(image.size[::-1] if transposed else image.size, spec)
    width, height = placement.size[::-1] if transposed else placement.size
    image.draft(None, (int(width * REDUCING_GAP), int(height * REDUCING_GAP)))
    return placement


def _upright(image: Image.Image) -> Image.Image:
    # exif_transpose copies an image that is upright already.
    turned = image.getexif().get(_EXIF_ORIENTATION, 1) in _EXIF_TURNED
    return ImageOps.exif_transpose(image) if turned else image


def _fit(rgb: Image.Image, placement: Placement, spec: InputSpec, gap: float | None) -> NDArray[np.uint8]:
    left, top = placement.left, placement.top
    window = (left, top, left + spec.width, top + spec.height)
    resampling = RESAMPLING[spec.interpolation]
    if placement.size[0] * placement.size[1] > _LARGEST_DETOUR * spec.width * spec.height:
        # A strip of 1 x 5000 pixels would become 256 x 1,280,000 before the crop: resample only what the crop keeps.
        # The sampling points are the same, but Pillow's rounding differs by a grey level, so only large detours do so.
        x, y = rgb.width / placement.size[0], rgb.height / placement.size[1]
        box = (window[0] * x, window[1] * y, window[2] * x, window[3] * y)
        return np.array(rgb.resize((spec.width, spec.height), resampling, box=box, reducing_gap=gap), dtype=np.uint8)
    if rgb.size != placement.size:
        rgb = rgb.resize(placement.size, resampling, reducing_gap=gap)
    # Beyond the image's edge (letterbox) crop fills with black.
    return np.array(rgb if rgb.size == (spec.width, spec.height) else rgb.crop(window), dtype=np.uint8)


@contextmanager
def _as_broken_image(format_: str | None) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # Decoders meet corrupt data with nearly any exception type; all of them mean the same to the caller.
        raise broken(format_, error) from error


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
        # Entropy-coded data never contains 0xFF 0xDA; a preview within the metadata has a few.
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
