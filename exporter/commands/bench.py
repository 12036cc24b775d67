"""`microtome bench`: time a version against plain `model.export()`."""

from __future__ import annotations

import argparse
from pathlib import Path

from exporter.commands import COMMANDS


def add_to(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command."""
    parser = subparsers.add_parser(
        "bench",
        help=COMMANDS["bench"],
        description="Time a version's forward pass for each batch size and output, in turns with the same model from "
        "plain model.export(), on this machine's CPU.",
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="a version, such as models/lite0/1")
    parser.add_argument(
        "--batch-sizes", default="1,8", metavar="N,N", help="batch sizes, separated by commas (%(default)s)"
    )
    parser.add_argument(
        "--seconds", type=float, default=3.0, metavar="S", help="how long each row is timed (%(default)s)"
    )
    parser.add_argument(
        "--sources",
        type=Path,
        default=Path(),
        metavar="FOLDER",
        help="the recipe's folder, where the files that it names start (the current one)",
    )
    parser.add_argument("--json", action="store_true", help="JSON, for programs")


def run(arguments: argparse.Namespace) -> int:
    """Time a version and print the table."""
    from exporter.tensorflow_ready import tensorflow_ready  # noqa: PLC0415
    from exporter.versions import batch_sizes_of, find_version  # noqa: PLC0415

    directory = find_version(arguments.directory)
    sizes = batch_sizes_of(arguments.batch_sizes)
    with tensorflow_ready():
        from exporter.benchmark import bench  # noqa: PLC0415

        rows = bench(directory, sizes, arguments.seconds, arguments.sources)
    from exporter.bench_report import print_rows  # noqa: PLC0415

    print_rows(rows, as_json=arguments.json)
    return 0
