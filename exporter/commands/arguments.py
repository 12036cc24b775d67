"""Arguments that several commands share: a backbone at an input size, and the directory of a version."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.errors import ImpossibleOption

if TYPE_CHECKING:
    from exporter.models.building import Built
    from microtome.manifest import InputSpec, TokensSpec


def add_backbone_to(parser: argparse.ArgumentParser, *, towers: bool = False) -> None:
    """Add the arguments that name a backbone and its input size, and which of its towers if the command knows both."""
    parser.add_argument(
        "backbone",
        metavar="BACKBONE",
        help="such as ResNet50 or EfficientNetLite0; FILE.keras, FILE.h5 or MODULE:FUNCTION for your own; "
        "keras_hub:PRESET",
    )
    if towers:
        help_ = "of a preset for images and text, the part to look at (%(default)s)"
        parser.add_argument("--tower", choices=("image", "text"), default="image", help=help_)
    parser.add_argument(
        "--size",
        type=parse_size,
        metavar="HxW",
        help="input size in pixels, such as 224 or 300x400 (the backbone's own; any other leaves the classifier out)",
    )


@contextlib.contextmanager
def built_backbone(arguments: argparse.Namespace) -> Iterator[tuple[Built, InputSpec]]:
    """Build the backbone and give it with its preprocessing, while TensorFlow's native log lines are hidden.

    The weights are those of the option `--weights` where a command has it, else random or those of an own model.

    Raises:
        UnknownBackbone: There is no such backbone; raised before TensorFlow is imported.
        ExporterError: It cannot be built.
    """
    from exporter.recipe.backbones import find_backbone  # noqa: PLC0415
    from exporter.recipe.preprocessing import resolve  # noqa: PLC0415
    from exporter.runtime.tensorflow_ready import tensorflow_ready  # noqa: PLC0415

    row = find_backbone(arguments.backbone, getattr(arguments, "weights", None))
    chosen = {} if arguments.size is None else {"height": arguments.size[0], "width": arguments.size[1]}
    pixels = resolve(row.preprocessing, chosen)
    with tensorflow_ready():
        from exporter.models.building import build  # noqa: PLC0415
        from exporter.runtime.terminal import stage  # noqa: PLC0415

        with stage(f"Building {row.name}"):
            built = build(row, getattr(arguments, "weights", None), pixels, any_color=True)
        yield built, replace(pixels, color=built.color)


@contextlib.contextmanager
def built_tower(arguments: argparse.Namespace) -> Iterator[tuple[Built, InputSpec | TokensSpec]]:
    """Build the backbone, or the text tower of one for images and text, and give it with its input.

    Raises:
        ExporterError: As `built_backbone`, or the preset has no text tower.
    """
    if arguments.tower == "image":
        with built_backbone(arguments) as found:
            yield found
        return
    from exporter.recipe.backbones import find_backbone  # noqa: PLC0415
    from exporter.recipe.own_backbones import PRESET_PREFIX  # noqa: PLC0415
    from exporter.recipe.preset_tokens import preset_tokens  # noqa: PLC0415
    from exporter.runtime.tensorflow_ready import tensorflow_ready  # noqa: PLC0415

    preset = arguments.backbone.removeprefix(PRESET_PREFIX)
    if preset == arguments.backbone or arguments.size is not None:
        raise ImpossibleOption(
            f"Expected {PRESET_PREFIX}PRESET without --size for --tower text. Received: {arguments.backbone}."
        )
    row, tokens = find_backbone(arguments.backbone), preset_tokens(preset).spec
    with tensorflow_ready():
        from exporter.models.building import build  # noqa: PLC0415
        from exporter.runtime.terminal import stage  # noqa: PLC0415

        with stage(f"Building the text tower of {row.name}"):
            built = build(row, None, tokens)
        yield built, tokens


def add_version_to(parser: argparse.ArgumentParser) -> None:
    """Add the directory of a version."""
    parser.add_argument("directory", type=Path, metavar="DIR", help="a version, such as models/lite0/1")


def add_sources_to(parser: argparse.ArgumentParser) -> None:
    """Add the folder of the files that a version's recipe names."""
    parser.add_argument(
        "--sources",
        type=Path,
        default=Path(),
        metavar="FOLDER",
        help="the recipe's folder, where the files that it names start (the current one)",
    )


def parse_size(text: str) -> tuple[int, int]:
    """Parse `224` or `300x400` as height and width in pixels."""
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise argparse.ArgumentTypeError(f"expected pixels, such as 224 or 300x400. Received: {text!r}.")
    return int(sides[0]), int(sides[-1])
