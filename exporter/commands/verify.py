"""`microtome verify`: prove that a version computes what Keras computes."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.commands.arguments import add_sources_to, add_version_to
from microtome.errors import shown

if TYPE_CHECKING:
    from exporter.verify.checks import Finding


DESCRIPTION = (
    "Load a version afresh, build its model again from its recipe, and compare the two. Ends with 1 when they differ. "
    "With --server ADDRESS, a running model server is asked instead: see microtome verify --server= --help."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_version_to(parser)
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="real images to compare on, the first 64 of them")
    add_sources_to(parser)
    parser.add_argument("--json", action="store_true", help="JSON, for programs")


def run(arguments: argparse.Namespace) -> int:
    """Verify a version and print the findings."""
    from exporter.runtime.tensorflow_ready import tensorflow_ready  # noqa: PLC0415
    from exporter.savedmodel.versions import find_version  # noqa: PLC0415

    directory = find_version(arguments.directory)
    with tensorflow_ready():
        from exporter.verify.verification import verify_again  # noqa: PLC0415

        findings = verify_again(directory, arguments.images, arguments.sources)
    ok = all(finding.ok for finding in findings)
    if arguments.json:
        document = {"directory": str(directory), "ok": ok, "findings": [asdict(finding) for finding in findings]}
        print(json.dumps(document, indent=1))  # noqa: T201
    else:
        _print_table(directory, findings, ok=ok)
    return 0 if ok else 1


def _print_table(directory: Path, findings: Sequence[Finding], *, ok: bool) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    from exporter.runtime.terminal import print_table  # noqa: PLC0415

    console = Console(highlight=False)
    console.print(
        f"{shown(str(directory))}: {'verified' if ok else 'NOT as it should be'}", soft_wrap=True, markup=False
    )
    good, bad = Text("ok", "green"), Text("no", "red")
    rows = [(good if finding.ok else bad, finding.check, finding.detail) for finding in findings]
    print_table(("", "check", "found"), rows, console=console)
