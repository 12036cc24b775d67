"""`microtome inspect`: a version's manifest, for people."""

from __future__ import annotations

import argparse
from pathlib import Path

from exporter.commands import COMMANDS


def add_to(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command."""
    parser = subparsers.add_parser(
        "inspect",
        help=COMMANDS["inspect"],
        description="Print a version's manifest for people: what it is, what it returns, what it costs.",
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="a version, such as models/lite0/1")


def run(arguments: argparse.Namespace) -> int:
    """Print the manifest."""
    from exporter.inspection import print_version  # noqa: PLC0415
    from exporter.versions import find_version  # noqa: PLC0415

    print_version(find_version(arguments.directory))
    return 0
