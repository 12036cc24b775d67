"""`microtome layers`: where a backbone can be cut, and what a cut there means."""

from __future__ import annotations

import argparse

from exporter.commands import COMMANDS
from exporter.commands.backbone import add_backbone_to, read_backbone


def add_to(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command."""
    parser = subparsers.add_parser(
        "layers",
        help=COMMANDS["layers"],
        description="List where a backbone can be cut: output shape, weights and operations up to there, what a "
        "position sees, and how many tensors an edge cut there crosses.",
    )
    add_backbone_to(parser)
    parser.add_argument("--all", action="store_true", help="every layer, not only where blocks end")
    parser.add_argument("--find", metavar="TEXT", help="only layers with this text in their name or type")
    parser.add_argument("--json", action="store_true", help="JSON, for programs")


def run(arguments: argparse.Namespace) -> int:
    """Print one line for each cut point."""
    row, pixels = read_backbone(arguments)
    from exporter.tensorflow_ready import tensorflow_ready  # noqa: PLC0415

    with tensorflow_ready():
        from exporter.anatomy.facts import cut_points  # noqa: PLC0415
        from exporter.building import build  # noqa: PLC0415
        from exporter.listing import chosen, show, show_json  # noqa: PLC0415
        from exporter.progress import stage  # noqa: PLC0415

        with stage(f"Building {row.name}"):
            points = cut_points(build(row, None, pixels).model)
    rows = chosen(points, every=arguments.all, find=arguments.find)
    if arguments.json:
        show_json(rows, points)
    else:
        show(rows, points, arguments.find)
    return 0
