"""The `microtome` command: `up` serves, `embed` asks a gateway, `cache` is the gateway's, the rest the exporter's.

Whatever is heavy is imported by the subcommand that needs it, so that `microtome --help` is instant.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence

from exporter.commands import COMMANDS
from microtome import __version__
from microtome.up import arguments

FORWARDED = {name: ("exporter.cli", text) for name, text in COMMANDS.items()} | {
    "rollout": ("microtome.rollout.command", "take another version of a model into use while requests run"),
    "cache": ("service.cache_command", "see, fill and clear the vectors in Redis"),
    "embed": ("microtome.embed.command", "embed folders, lists, tars and Parquet columns into one file of vectors"),
}
"""Who understands a subcommand's arguments, and what it is there for."""


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        prog="microtome", description="Image embeddings from any layer of a pretrained vision backbone, as a service."
    )
    parser.add_argument("--version", action="version", version=f"microtome {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    arguments.add_to(
        commands.add_parser(
            "up",
            help="serve a recipe's models on this machine",
            description=arguments.DESCRIPTION,
            epilog=arguments.EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )
    for name, (_, text) in FORWARDED.items():
        commands.add_parser(name, help=f"{text} (see microtome {name} --help)", add_help=False)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Raises:
        SystemExit: With 2 when the command line itself is wrong, with 0 after `--help` and `--version`.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in FORWARDED:
        # Before argparse sees them: these arguments, `--help` included, are another's to understand.
        return int(importlib.import_module(FORWARDED[words[0]][0]).main(words))
    options = arguments.read(build_parser().parse_args(words))
    return int(importlib.import_module("microtome.up.session").run(options))
