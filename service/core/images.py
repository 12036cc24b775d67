"""Turn encoded images into model pixels: sniff, check the size, decode, orient, convert to RGB, resize, crop.

Every limit is enforced before the step it protects (`headers.py`), so a bomb is refused while it is still small.
Nothing here knows about threads: `decode` is called off the event loop.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from service.core.geometry import Placement, place
from service.core.headers import broken, opened
from service.core.manifest import InputSpec

RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

# A scaled JPEG is decoded at no less than this times the size wanted, and the rest of the way is resampled: Pillow's
# own choice in Image.thumbnail, indistinguishable from resampling the full image.
REDUCING_GAP = 2.0

# How many times the model's window an image may measure after resizing, before the crop.
_LARGEST_DETOUR = 16

_EXIF_ORIENTATION = 0x0112
_EXIF_TURNED = frozenset({2, 3, 4, 5, 6, 7, 8})
_EXIF_TRANSPOSED = frozenset({5, 6, 7, 8})


def decode(encoded: bytes, spec: InputSpec, *, max_pixels: int) -> NDArray[np.uint8]:
    """Decode one image as the model's manifest says.

    Colours are Keras': whatever the mode, `convert("RGB")`; of an animation the first frame.

    Args:
        encoded: the file's bytes.
        spec: the manifest's `input`.
        max_pixels: width times height above which the image is refused before it is decoded.

    Returns:
        uint8 [height, width, 3], RGB, C-contiguous.

    Raises:
        NotAnImage: no format that we read.
        ImageTooLarge: more pixels than `max_pixels`, or otherwise out of proportion.
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


def _place_draft(image: Image.Image, spec: InputSpec) -> Placement:
    """Ask libjpeg for a scaled decode, which must be done before loading, and place the image by its full size."""
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
        # The same sampling points, but Pillow rounds them otherwise, by a grey level, so not the way for every image.
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
