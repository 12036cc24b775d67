"""Colours of a decoded picture: deep greys to 8 bits, transparent pictures on a background, and all as the model's.

Pillow's `convert`, which Keras calls, clips grey levels above 255 to white, and shows what lies beneath full
transparency. Recipes may ask for something else: `InputSpec.depth` and `InputSpec.background`.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image

from microtome.manifest import InputSpec

MODES = {"gray": "L", "rgb": "RGB", "rgba": "RGBA"}
"""Pillow's names of the colours that models take, as in `keras.utils.load_img`."""

_BITS, _SAMPLE_FORMAT = 258, 339
_SIGNED = 2
_PNG_BITS = 24
"""Where a PNG has the bits of a channel."""


class Depth(NamedTuple):
    """Bits of a channel in the file, and whether its integers have a sign."""

    bits: int
    signed: bool


def depth_of(image: Image.Image, encoded: bytes) -> Depth:
    """Return the depth that a file states; 16 bits without a sign where its format has no other deep greys."""
    tags = getattr(image, "tag_v2", {})
    if image.format == "TIFF":
        return Depth(max(tags.get(_BITS) or (1,)), _SIGNED in (tags.get(_SAMPLE_FORMAT) or ()))
    return Depth(encoded[_PNG_BITS] if image.format == "PNG" else 16, signed=False)


def colored(image: Image.Image, spec: InputSpec, depth: Depth) -> Image.Image:
    """Return a picture, or a part of one, in the colours that the model takes.

    Transparency is laid on the background before the picture is resized: resized first, colours beneath it would leak
    into the edges as a halo.

    Args:
        image: loaded, upright.
        spec: the manifest's `input`.
        depth: of the file; a part no longer knows it.
    """
    if spec.background is not None and image.mode == "P" and image.has_transparency_data:
        image = image.convert("RGBA")
    opaque = None if spec.background is None else _opaque(image, depth)
    if spec.depth == "scale" and image.mode[0] in "IF":
        image = _scaled(image, depth)
    if opaque is not None:
        ground = Image.new("RGB", image.size, spec.background)
        ground.paste(image.convert("RGB"), (0, 0), opaque)
        image = ground
    mode = MODES[spec.color]
    return image if image.mode == mode else image.convert(mode)


def _opaque(image: Image.Image, depth: Depth) -> Image.Image | None:
    """Return how opaque each pixel is, from 0 to 255; None where all are opaque."""
    if not image.has_transparency_data:
        return None
    key = image.info.get("transparency")
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image.convert("I")) != key) * np.uint8(255))
    # Pillow compares a PNG's transparent colour, as the file has it, with pixels of 8 bits.
    if image.mode == "L" and isinstance(key, int) and depth.bits < 8:
        return image.point([0 if level == key * 255 // (2**depth.bits - 1) else 255 for level in range(256)])
    if image.mode == "RGB" and isinstance(key, tuple) and depth.bits == 16:
        image = image.copy()
        image.info["transparency"] = tuple(level >> 8 for level in key)
    if image.mode == "La":
        image = image.convert("LA")
    return (image if image.mode in {"RGBA", "LA", "PA"} else image.convert("RGBA")).getchannel("A")


def _scaled(image: Image.Image, depth: Depth) -> Image.Image:
    """Scale grey levels to 8 bits, as scikit-image's `img_as_ubyte` does.

    The lowest bits are dropped, as Pillow drops them of colours; what is negative becomes black. Of floating-point
    numbers, 0 is black and 1 is white; what lies beyond is clipped, and NaN is black.
    """
    if image.mode == "F":
        levels = np.nan_to_num(np.asarray(image), nan=0.0, posinf=1.0, neginf=0.0)
        return Image.fromarray(np.rint(np.clip(levels, 0, 1) * 255).astype(np.uint8))
    whole = np.asarray(image.convert("I"))
    if depth.bits == 32 and not depth.signed:
        whole = whole.view(np.uint32)
    shift = depth.bits - depth.signed - 8
    return Image.fromarray((np.maximum(whole, 0) >> shift).astype(np.uint8))
