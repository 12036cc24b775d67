"""Decode and resize by a manifest, in a loop of a dozen lines.

Not imported from the service: a baseline that shares the code would not show that it gets slower.
"""

import io
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

_REDUCING_GAP = 2.0


def pixels(encoded: bytes, spec: dict[str, Any]) -> NDArray[np.uint8]:
    """Decode one JPEG for a model that resizes its shortest side and crops the centre; uint8 [H, W, 3]."""
    image: Image.Image = Image.open(io.BytesIO(encoded))
    side = spec["shortest_side"] or min(spec["height"], spec["width"])
    scale = side / min(image.size)
    size = (int(image.width * scale), int(image.height * scale))
    gap = None
    if spec["jpeg_draft"]:
        gap = _REDUCING_GAP
        image.draft(None, (int(size[0] * gap), int(size[1] * gap)))
    image = ImageOps.exif_transpose(image).convert("RGB")
    image = image.resize(size, Image.Resampling[spec["interpolation"].upper()], reducing_gap=gap)
    left, top = (size[0] - spec["width"]) // 2, (size[1] - spec["height"]) // 2
    return np.asarray(image.crop((left, top, left + spec["width"], top + spec["height"])))


def seconds_per_image(images: list[bytes], spec: dict[str, Any], seconds: float) -> float:
    """Return the CPU seconds that one image costs."""
    end = time.perf_counter() + seconds
    begin, done = time.process_time(), 0
    while time.perf_counter() < end:
        pixels(images[done % len(images)], spec)
        done += 1
    return (time.process_time() - begin) / done
