"""Bilinear resizing by vector instructions for `decode: fast`, by cykooz-resizer, within a grey level of Pillow.

Its coefficients have 16 bits where Pillow's have 22, and give the same pixels on every processor.
"""

from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import Any

from PIL import Image

from microtome.manifest import InputSpec, Interpolation

_NO_LIBRARY = (
    "decode: fast needs cykooz-resizer, which is not here: it has wheels for Linux on x86-64, macOS and Windows. "
    "decode: balanced has the same pixels within a grey level."
)


@cache
def _library() -> Any:  # noqa: ANN401, a module without types
    """Import the library when a model first wants it, since it takes 10 MB; None where there is none."""
    with suppress(ImportError):
        return import_module("cykooz_resizer")
    return None


def unavailable(spec: InputSpec) -> str | None:
    """Return why images cannot be prepared so on this platform, and what to do, in a sentence; None if they can."""
    return _NO_LIBRARY if spec.decode == "fast" and _library() is None else None


def resized_window(  # noqa: PLR0913, PLR0917, as Pillow's own
    image: Image.Image,
    size: tuple[int, int],
    window: tuple[int, int, int, int],
    interpolation: Interpolation,
    gap: float | None,
    part: tuple[float, float, float, float] | None = None,
) -> Image.Image | None:
    """Resize an image, and return a part of the result; only what is seen of it is computed.

    Args:
        image: mode RGB or L; others are Pillow's.
        size: width and height of the whole after resizing.
        window: left, top, right and bottom edge of the part; black where it lies beyond the whole.
        interpolation: Pillow's name of the filter.
        gap: what Pillow would have as `reducing_gap`.
        part: left, top, right and bottom edge of what is resized, if that is not the whole image.

    Returns:
        None where Pillow has to do it: no resizing; opacity, which weighs colours; another filter than bilinear, since
        those with negative coefficients clip between the passes along rows and columns, whose order is Pillow's choice;
        and a reduction for which Pillow would first average blocks of pixels.
    """
    library = _library()
    x0, y0, x1, y1 = part or (0.0, 0.0, float(image.width), float(image.height))
    across, down = (x1 - x0) / size[0], (y1 - y0) / size[1]
    same = part is None and image.size == size
    if image.mode not in ("RGB", "L") or interpolation != "bilinear" or same:
        return None
    if gap is not None and max(across, down) >= 2 * gap:
        return None
    left, top = max(0, window[0]), max(0, window[1])
    width, height = min(size[0], window[2]) - left, min(size[1], window[3]) - top
    # The library refuses a box that ends beyond the image, if only by rounding.
    ends = min(width * across, x1 - x0 - left * across), min(height * down, y1 - y0 - top * down)
    options = library.ResizeOptions(
        library.ResizeAlg.convolution(library.FilterType.bilinear),
        crop_box=library.CropBox(x0 + left * across, y0 + top * down, *ends),
    )
    seen = Image.new(image.mode, (width, height))
    # One for each call, which costs nothing: one cannot be used by two threads.
    library.Resizer().resize_pil(image, seen, options)
    shifted = (window[0] - left, window[1] - top, window[2] - left, window[3] - top)
    return seen if shifted == (0, 0, width, height) else seen.crop(shifted)
