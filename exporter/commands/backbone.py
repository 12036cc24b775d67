"""The argument that several commands share: which backbone, at which input size."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exporter.backbones import Backbone
    from exporter.preprocessing import Preprocessing


def add_backbone_to(parser: argparse.ArgumentParser) -> None:
    """Describe the backbone's arguments."""
    parser.add_argument(
        "backbone",
        metavar="BACKBONE",
        help="such as ResNet50 or EfficientNetLite0; FILE.keras or MODULE:FUNCTION for your own; keras_hub:PRESET",
    )
    parser.add_argument(
        "--size",
        type=_size,
        metavar="HxW",
        help="input size in pixels, such as 224 or 300x400 (the backbone's own; any other leaves the classifier out)",
    )


def read_backbone(arguments: argparse.Namespace) -> tuple[Backbone, Preprocessing]:
    """Return the backbone's row and its input, without TensorFlow: a mistyped name is answered at once.

    Raises:
        UnknownBackbone: There is no such backbone.
    """
    from exporter.backbones import find_backbone  # noqa: PLC0415
    from exporter.preprocessing import resolve  # noqa: PLC0415

    row = find_backbone(arguments.backbone)
    chosen = {} if arguments.size is None else {"height": arguments.size[0], "width": arguments.size[1]}
    return row, resolve(row.preprocessing, chosen)


def _size(text: str) -> tuple[int, int]:
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise argparse.ArgumentTypeError(f"expected pixels, such as 224 or 300x400. Received: {text!r}.")
    return int(sides[0]), int(sides[-1])
