"""A region of an image: where it lies in fractions, how callers write it, and which pixels it has."""

from collections.abc import Sequence
from typing import NamedTuple

_SLACK = 1e-6
"""By how much a region may pass the right or lower edge, since fractions of pixels are rounded numbers."""

MOST_REGIONS = 1000
"""Regions that one image may have; a request's limit of images is lower."""

EXPECTED = "x, y, width and height in fractions of the image, such as 0.25,0,0.5,1: the size above 0, and all within 1"


class Region(NamedTuple):
    """A part of an upright image, in fractions of its width and height, from its upper left corner.

    Its edges are rounded to whole pixels, halves up; it has one pixel at least.
    """

    x: float
    y: float
    width: float
    height: float

    def box(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Return left, top, right and bottom in pixels of an image of `size` (width, height), as Pillow's boxes."""
        left, right = _edges(self.x, self.width, size[0])
        top, bottom = _edges(self.y, self.height, size[1])
        return left, top, right, bottom


def _edges(start: float, length: float, side: int) -> tuple[int, int]:
    first = min(int(start * side + 0.5), side - 1)
    return first, min(max(int((start + length) * side + 0.5), first + 1), side)


WHOLE = Region(0.0, 0.0, 1.0, 1.0)


def read_region(value: object) -> Region:
    """Read a region: four numbers in a list, or as text with commas between them.

    Raises:
        ValueError: it is none; the message says what is expected.
    """
    numbers: Sequence[object] = ()
    if isinstance(value, str):
        numbers = value.split(",", 4)
    # A bool is an int.
    elif isinstance(value, list | tuple) and all(type(n) in {int, float} for n in value):
        numbers = value
    try:
        # Zero has one sign in a cache's key.
        x, y, width, height = (float(number) + 0.0 for number in numbers)  # type: ignore[arg-type]  # text or numbers
    except (ValueError, OverflowError):
        raise ValueError(EXPECTED) from None
    # NaN fails every comparison.
    if not (x >= 0 and y >= 0 and width > 0 and height > 0 and x + width <= 1 + _SLACK and y + height <= 1 + _SLACK):
        raise ValueError(EXPECTED)
    return Region(x, y, width, height)


def read_regions(value: object) -> tuple[Region, ...]:
    """Read one region, or a list of several.

    Raises:
        ValueError: they are none, or too many.
    """
    listed: Sequence[object] = (value,)
    if isinstance(value, list | tuple) and all(isinstance(item, str | list | tuple) for item in value):
        listed = value
    if not 0 < len(listed) <= MOST_REGIONS:
        raise ValueError(f"{EXPECTED}; or a list of up to {MOST_REGIONS} of these")
    return tuple(read_region(item) for item in listed)
