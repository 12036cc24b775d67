"""`microtome bench`: time a version against plain `model.export()`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from exporter.commands.arguments import add_sources_to, add_version_to
from exporter.errors import ImpossibleOption

if TYPE_CHECKING:
    from exporter.bench import BenchRow


DESCRIPTION = (
    "Time a version's forward pass for each batch size and output, in turns with the same model from plain "
    "model.export(), on this machine's CPU."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_version_to(parser)
    parser.add_argument(
        "--batch-sizes", default="1,8", metavar="N,N", help="batch sizes, separated by commas (%(default)s)"
    )
    parser.add_argument(
        "--seconds", type=float, default=3.0, metavar="S", help="how long each row is timed (%(default)s)"
    )
    add_sources_to(parser)
    parser.add_argument("--json", action="store_true", help="JSON, for programs")


def run(arguments: argparse.Namespace) -> int:
    """Time a version and print the table."""
    from exporter.runtime.tensorflow_ready import tensorflow_ready  # noqa: PLC0415
    from exporter.savedmodel.versions import find_version  # noqa: PLC0415

    directory = find_version(arguments.directory)
    sizes = _batch_sizes(arguments.batch_sizes)
    with tensorflow_ready():
        from exporter.bench import bench  # noqa: PLC0415

        rows = bench(directory, sizes, arguments.seconds, arguments.sources)
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))  # noqa: T201
    else:
        _print_table(rows)
    return 0


def _batch_sizes(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise ImpossibleOption(f"Expected batch sizes such as 1,8. Received: {text!r}.")
    return [int(part) for part in parts]


def _print_table(rows: Sequence[BenchRow]) -> None:
    from exporter.runtime.terminal import print_table  # noqa: PLC0415

    columns = ("output", "batch", "ms", "images/s", "plain ms", "times faster", "middle half", "by processor", "turns")
    cells = [
        (
            row.output,
            str(row.batch),
            f"{row.milliseconds:.1f}",
            f"{row.images_per_second:.1f}",
            f"{row.plain_milliseconds:.1f}",
            f"{row.ratio:.2f}",
            f"{row.spread[0]:.2f} to {row.spread[1]:.2f}",
            f"{row.cpu_ratio:.2f}",
            str(row.turns),
        )
        for row in rows
    ]
    print_table(columns, cells)
