"""Read image files as the gateway reads its callers' images."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from exporter.errors import CalibrationImageBroken
from microtome.errors import RequestRejected
from microtome.manifest import InputSpec
from microtome.preprocessing import decode

_MAX_PIXELS = 1 << 29


def read_pixels(path: Path, spec: InputSpec) -> NDArray[np.uint8]:
    """Read an image file as the gateway will read its callers' images.

    Returns:
        uint8 [height, width, 3], RGB.

    Raises:
        CalibrationImageBroken: It cannot be read or decoded.
    """
    try:
        return decode(path.read_bytes(), spec, max_pixels=_MAX_PIXELS)
    except (OSError, RequestRejected) as error:
        raise CalibrationImageBroken(
            f"Expected an image. Received: {path}: {error} Take it out of the folder."
        ) from error
