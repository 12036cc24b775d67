"""`microtome verify`: prove that a version computes what Keras computes."""

from __future__ import annotations

import argparse
from pathlib import Path

from exporter.commands import COMMANDS


def add_to(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command."""
    parser = subparsers.add_parser(
        "verify",
        help=COMMANDS["verify"],
        description="Load a version afresh, build its model again from its recipe, and compare the two. Ends with 1 "
        "when they differ.",
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="a version, such as models/lite0/1")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="real images to compare on, the first 64 of them")
    parser.add_argument(
        "--sources",
        type=Path,
        default=Path(),
        metavar="FOLDER",
        help="the recipe's folder, where the files that it names start (the current one)",
    )
    parser.add_argument("--json", action="store_true", help="JSON, for programs")


def run(arguments: argparse.Namespace) -> int:
    """Verify a version and print what was found."""
    from exporter.tensorflow_ready import tensorflow_ready  # noqa: PLC0415
    from exporter.versions import find_version  # noqa: PLC0415

    directory = find_version(arguments.directory)
    with tensorflow_ready():
        from exporter.reverification import verify_again  # noqa: PLC0415

        findings = verify_again(directory, arguments.images, arguments.sources)
    from exporter.findings_report import print_findings  # noqa: PLC0415

    print_findings(directory, findings, as_json=arguments.json)
    return 0 if all(finding.ok for finding in findings) else 1
