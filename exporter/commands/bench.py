"""`microtome bench`: time a version against plain `model.export()`."""

import argparse
import json
from dataclasses import asdict

from exporter.commands.arguments import add_sources_to, add_version_to
from exporter.errors import ImpossibleOption

_COLUMNS = {
    "output": "{0.output}",
    "batch": "{0.batch}",
    "ms": "{0.milliseconds:.1f}",
    "images/s": "{0.images_per_second:.1f}",
    "plain ms": "{0.plain_milliseconds:.1f}",
    "times faster": "{0.ratio:.2f}",
    "middle half": "{0.spread[0]:.2f} to {0.spread[1]:.2f}",
    "by processor": "{0.cpu_ratio:.2f}",
    "turns": "{0.turns}",
}
"""Headings, and the format of a row's cell below each."""
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
        from exporter.runtime.terminal import print_table  # noqa: PLC0415

        print_table(list(_COLUMNS), [[text.format(row) for text in _COLUMNS.values()] for row in rows])
    return 0


def _batch_sizes(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise ImpossibleOption(f"Expected batch sizes such as 1,8. Received: {text!r}.")
    return [int(part) for part in parts]
