"""What calibration images and features allow, asked before any image is looked at."""

from __future__ import annotations

import math
from collections.abc import Mapping

from exporter.errors import ImpossibleProjection
from exporter.recipe import OutputRecipe, Projection

LARGEST_QUANTIZED = 16_384
_MOST_BYTES = 4 << 30


def want_attainable(output: OutputRecipe, pooled: tuple[int, ...], images: int) -> None:
    """Check that an output can be projected and quantized as it is asked.

    Args:
        output: Which, and how.
        pooled: Shape of one image's features, not yet projected.
        images: How many there are to calibrate with.

    Raises:
        ImpossibleProjection: It cannot.
    """
    if output.projection is not None:
        want_dimensions(output.name, output.projection, pooled[0], images)
    size = output.projection.dim if output.projection is not None else math.prod(pooled)
    if output.quantization == "int8" and size > LARGEST_QUANTIZED:
        raise ImpossibleProjection(
            f"Expected at most {LARGEST_QUANTIZED} dimensions for quantization: int8 of the output {output.name}. "
            f"Received: {size}. Pool it, or project it with pca or random."
        )


def want_dimensions(name: str, wanted: Projection, width: int, images: int) -> None:
    """Check that vectors can be projected to so few dimensions.

    Args:
        name: Of the output, for messages.
        wanted: The projection.
        width: Numbers in the long vector.
        images: How many there are to fit principal components on.

    Raises:
        ImpossibleProjection: More dimensions are wanted than images or features allow.
    """
    if wanted.kind == "random" and wanted.dim > width:
        raise ImpossibleProjection(f"Expected random of at most {width} for the output {name}. Received: {wanted.dim}.")
    most = min(images - 1, width)
    if wanted.kind == "pca" and wanted.dim > most:
        raise ImpossibleProjection(
            f"Expected pca of at most {most} for the output {name}, which has {width} dimensions and {images} "
            f"calibration images. Received: {wanted.dim}. Give more images, or ask for fewer dimensions."
        )


def want_memory(pooled: Mapping[OutputRecipe, tuple[int, ...]], images: int) -> None:
    """Check that the features of all images can be held at once.

    Args:
        pooled: Shapes of one image's features, of the outputs that need calibration.
        images: How many there are.

    Raises:
        ImpossibleProjection: They cannot.
    """
    needed = 4 * images * sum(math.prod(shape) for shape in pooled.values())
    if needed > _MOST_BYTES:
        raise ImpossibleProjection(
            f"Expected calibration features of at most {_MOST_BYTES >> 30} GB. Received: {needed / (1 << 30):.1f} GB "
            f"for {images} images. Use pooling: avg instead of flatten, or fewer images (calibration: {{images: N}})."
        )
