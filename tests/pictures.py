"""Encoded images made in code."""

import io
from typing import Any

import numpy as np
from PIL import Image


def noise(width: int = 40, height: int = 30, seed: int = 0) -> Image.Image:
    """Make a smooth random RGB picture: noise at an eighth of the size, enlarged."""
    small = np.random.default_rng(seed).integers(0, 256, (max(1, height // 8), max(1, width // 8), 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    """Encode a picture; `options` are Pillow's for the format."""
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def png(seed: int = 0, width: int = 40, height: int = 30) -> bytes:
    """Make a PNG, another one for every seed."""
    return encoded(noise(width, height, seed))


def solid(color: tuple[int, int, int]) -> bytes:
    """A small PNG of one colour."""
    return encoded(Image.new("RGB", (8, 8), color))
