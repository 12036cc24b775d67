"""Turn calibration images into pixels, exactly as the gateway will turn its callers' images into pixels.

The gateway's own decoder is not imported, because exporter and gateway meet only in the manifest; a contract test
holds the two equal, bit by bit.
"""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from exporter.errors import CalibrationImageBroken
from exporter.recipe.preprocessing import Preprocessing

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_REDUCING_GAP = 2.0
_LARGEST_DETOUR = 16
_EXIF_ORIENTATION = 0x0112
_EXIF_TRANSPOSED = frozenset({5, 6, 7, 8})


def read_pixels(path: Path, wanted: Preprocessing) -> np.ndarray[Any, Any]:
    """Read an image file.

    Returns:
        uint8 [height, width, 3], RGB.

    Raises:
        CalibrationImageBroken: It cannot be decoded.
    """
    try:
        with Image.open(path) as image:
            return _pixels(image, wanted)
    except Exception as error:  # decoders meet corrupt data with nearly any type of exception
        raise CalibrationImageBroken(
            f"Expected an image. Received: {path}: {' '.join(str(error).split())}. Take it out of the folder."
        ) from error


def _pixels(image: Image.Image, wanted: Preprocessing) -> np.ndarray[Any, Any]:
    transposed = wanted.exif_orientation and image.getexif().get(_EXIF_ORIENTATION) in _EXIF_TRANSPOSED
    stored = (image.height, image.width) if transposed else image.size
    size = resized(stored, wanted)
    drafted = wanted.jpeg_draft and image.format == "JPEG"
    if drafted:
        width, height = size[::-1] if transposed else size
        image.draft(None, (int(width * _REDUCING_GAP), int(height * _REDUCING_GAP)))
    upright: Image.Image = ImageOps.exif_transpose(image) if wanted.exif_orientation else image
    rgb = upright if upright.mode == "RGB" else upright.convert("RGB")
    return _fit(rgb, size, wanted, _REDUCING_GAP if drafted else None)


def resized(stored: tuple[int, int], wanted: Preprocessing) -> tuple[int, int]:
    """Return (width, height) after resizing an upright image of (width, height) pixels, before the crop."""
    width, height = stored
    if wanted.resize == "squash":
        return wanted.width, wanted.height
    if wanted.resize == "shortest-side":
        side = wanted.shortest_side or min(wanted.width, wanted.height)
        return (side, int(side * height / width)) if width <= height else (int(side * width / height), side)
    ratio = min(wanted.width / width, wanted.height / height)
    return max(1, round(width * ratio)), max(1, round(height * ratio))


def _fit(rgb: Image.Image, size: tuple[int, int], wanted: Preprocessing, gap: float | None) -> np.ndarray[Any, Any]:
    left, top = round((size[0] - wanted.width) / 2), round((size[1] - wanted.height) / 2)
    window = (left, top, left + wanted.width, top + wanted.height)
    resampling = _RESAMPLING[wanted.interpolation]
    if size[0] * size[1] > _LARGEST_DETOUR * wanted.width * wanted.height:
        x, y = rgb.width / size[0], rgb.height / size[1]
        box = (window[0] * x, window[1] * y, window[2] * x, window[3] * y)
        return np.array(rgb.resize((wanted.width, wanted.height), resampling, box=box, reducing_gap=gap), np.uint8)
    if rgb.size != size:
        rgb = rgb.resize(size, resampling, reducing_gap=gap)
    return np.array(rgb if rgb.size == (wanted.width, wanted.height) else rgb.crop(window), np.uint8)
