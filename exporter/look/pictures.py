"""Pictures of gradients and of heat maps."""

from typing import Any

import numpy as np
from PIL import Image

from microtome.preprocessing import as_image

Array = np.ndarray[Any, Any]


def as_picture(gradient_: Array) -> Array:
    """Return a gradient as a picture, uint8 of the same shape: grey is zero, and the largest reaches the end."""
    most = float(np.quantile(np.abs(gradient_), 0.99)) or float(np.abs(gradient_).max()) or 1.0
    return np.clip(127.5 + 127.5 * gradient_ / most, 0, 255).round().astype(np.uint8)


def reduced(pixels: Array, side: int) -> Array:
    """Return a picture whose longest side is at most `side` pixels, without opacity."""
    image = as_image(pixels[..., :3])
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return np.asarray(image)


_COLOURS = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], np.float32)
"""The colours of matplotlib's inferno at 0, 1/4, 1/2, 3/4 and 1: brightness rises evenly, also in grey."""


def overlaid(pixels: Array, heat: Array) -> Array:
    """Return a photo in grey below a heat map of 0 to 1: uint8 [H, W, 3]."""
    colours = np.stack([np.interp(heat, np.linspace(0, 1, 5), _COLOURS[:, band]) for band in range(3)], axis=-1)
    grey = pixels[..., :3].astype(np.float32).mean(axis=-1, keepdims=True)
    return np.asarray(0.4 * grey + 0.6 * colours).clip(0, 255).astype(np.uint8)
