"""Read image files as the gateway reads its callers' images."""

from contextlib import nullcontext
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from exporter.errors import CalibrationImageBroken
from exporter.recipe.files import photo_bytes
from microtome.errors import ImageTooLarge, RequestRejected
from microtome.machine import cores, memory
from microtome.manifest import InputSpec
from microtome.preprocessing import prepared

_MAX_PIXELS = 1 << 29

_LARGE = Lock()
"""Held while an image is decoded that needs a large part of the memory, for threads that read many at a time."""


def read_pixels(path: Path, spec: InputSpec) -> NDArray[np.uint8]:
    """Read an image file as the gateway will read its callers' images.

    Returns:
        uint8 [height, width, channels].

    Raises:
        CalibrationImageBroken: It cannot be read or decoded.
    """
    try:
        photo_bytes(path)
        with prepared(path.read_bytes(), spec, max_pixels=_MAX_PIXELS) as picture:
            needed, there = picture.cost.memory, memory()
            if needed > there:
                raise ImageTooLarge(f"Decoding it needs about {needed >> 20} MB, of {there >> 20} MB that there are.")
            with _LARGE if needed > there // (8 * cores()) else nullcontext():
                return picture.pixels()
    except (OSError, RequestRejected) as error:
        raise CalibrationImageBroken(
            f"Expected an image. Received: {path}: {error} Take it out of the folder."
        ) from error
