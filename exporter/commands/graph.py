"""`microtome graph`: a picture of an architecture with the cuts in it."""

import argparse
from pathlib import Path

from exporter.commands.arguments import add_backbone_to, built_tower
from exporter.errors import CannotPublish
from microtome.manifest import TokensSpec

DESCRIPTION = "Draw a backbone's blocks as SVG, like neighbours as one box with a count, and mark cuts."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_backbone_to(parser, towers=True)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.svg", help="where the picture goes")
    parser.add_argument("--mark", action="append", default=[], metavar="LAYER", help="show a cut; as often as needed")
    parser.add_argument("--all", action="store_true", help="a box for every block")


def run(arguments: argparse.Namespace) -> int:
    """Draw the backbone and write the picture."""
    with built_tower(arguments) as (built, taken):
        from exporter.graph.drawing import draw, outline  # noqa: PLC0415

        boxes = outline(built.model, arguments.mark, expand=arguments.all)
    size = f"{taken.length} tokens" if isinstance(taken, TokensSpec) else f"{taken.height}x{taken.width} pixels"
    picture = draw(f"{built.row.name}, {size}", boxes)
    try:
        arguments.out.write_text(picture, encoding="utf-8")
    except OSError as error:
        raise CannotPublish(f"Expected to write {arguments.out}. Received: {error.strerror}.") from error
    print(f"{len(boxes)} boxes drawn to {arguments.out}")  # noqa: T201 -- the command's result
    return 0
