"""The `microtome` command: a table of sub-commands, each of which reads its own arguments.

A sub-command is imported when it runs, so that `microtome --help` is instant. The server's packages (service, exporter,
modelserver) may be absent: the wheel `microtome` has only the client.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from microtome import __version__

COMMANDS = {
    "up": ("microtome.commands.up.command", "serve a recipe's models, or a backbone cut at a layer, on this machine"),
    "export": ("exporter.cli", "export the models of a recipe"),
    "layers": ("exporter.cli", "list where a backbone can be cut"),
    "graph": ("exporter.cli", "draw a backbone with the cuts in it"),
    "split": ("exporter.cli", "cut a backbone into blocks and prove that their chain equals it"),
    "verify": ("microtome.commands.verify", "prove that a version, or a running server, computes what Keras computes"),
    "inspect": ("exporter.cli", "say what a version is, what it returns and what it costs"),
    "bench": ("exporter.cli", "time a version against plain model.export()"),
    "sweep": ("exporter.cli", "find the layer, pooling and preprocessing that suit your photos"),
    "train": ("exporter.cli", "train a classifier on your photos, on top of a recipe's output"),
    "look": ("exporter.cli", "show what a layer sees: photos that excite its channels, reconstructions, heat maps"),
    "recipe": ("exporter.cli", "print the JSON schema of recipes"),
    "rollout": ("microtome.commands.rollout.command", "take another version of a model into use while requests run"),
    "manifests": (
        "microtome.commands.manifests",
        "write the files of deploy/ for a recipe: Compose, Kubernetes",
    ),
    "doctor": (
        "microtome.commands.doctor.command",
        "check this machine, models, Redis and gateways; say what to do",
    ),
    "cache": ("service.cache_command", "see, fill and clear the vectors in Redis"),
    "embed": (
        "microtome.commands.embed.command",
        "embed folders, lists, tars and Parquet columns into one file of vectors",
    ),
    "search": ("microtome.commands.search.command", "find the photos of a folder that are nearest to others"),
    "classify": ("microtome.commands.embed.command", "name what the photos of folders, lists, tars and columns show"),
}
"""The module whose `main` runs a sub-command, and what the sub-command does."""

_TASKS = {
    "Serve and embed": ("up", "embed", "classify", "search"),
    "Cut": ("layers", "graph", "split", "recipe", "export"),
    "Choose a layer": ("sweep",),
    "Train": ("train",),
    "See what a model is": ("look", "inspect", "bench", "verify"),
    "Operate": ("manifests", "doctor", "rollout", "cache"),
}
"""What people come to do, and the commands for it."""

# pydantic: embed --saved-model imports it before the packages that bring it.
_SERVER = {"exporter", "modelserver", "pydantic", "service"}
_GRPC = {"google", "grpc"}


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        prog="microtome",
        description="Image embeddings from any layer of a pretrained vision backbone, as a service.",
        epilog=f"{_by_task()}\n\nmicrotome COMMAND --help says more of each.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"microtome {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, help="one of those below")
    for name in COMMANDS:
        commands.add_parser(name, add_help=False)
    return parser


def _by_task() -> str:
    """List the commands, by what they are for."""
    listed = {name for names in _TASKS.values() for name in names}
    more = tuple(name for name in COMMANDS if name not in listed)
    tasks = {**_TASKS, **({"More": more} if more else {})}
    return "\n\n".join(
        "\n".join((f"{task}:", *(f"  {name:10}{COMMANDS[name][1]}" for name in names))) for task, names in tasks.items()
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Raises:
        SystemExit: With 2 when the command line itself is wrong, with 0 after `--help` and `--version`.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] not in COMMANDS:
        build_parser().parse_args(words)
        return 0
    # gRPC's own lines repeat what is said in words; it reads this when it is imported.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        return int(importlib.import_module(COMMANDS[words[0]][0]).main(words))
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if package == "microtome":
            raise
        sys.stderr.write(f"microtome {words[0]}: {_needed(package) if package else error}\n")
        return 2


def _needed(package: str) -> str:
    if package in _SERVER:
        return f"needs the server's packages, which are not installed: add the wheel microtome-server {__version__}"
    if package in _GRPC:
        return "needs gRPC, which is not installed: pip install grpcio protobuf googleapis-common-protos"
    return f"needs the Python package {package}, which is not installed"
