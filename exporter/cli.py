"""The exporter's command line: every command of `exporter.commands`.

TensorFlow takes seconds to import and YAML and rich take their share, so nothing is imported before it is needed:
`--help` and a mistyped option are answered at once.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from types import ModuleType

import exporter
from exporter.commands import COMMANDS
from exporter.errors import ExporterError, VerificationFailed

_VERIFICATION_FAILED = 1
_USER_ERROR = 2
_INTERRUPTED = 130


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: Without the program's name; the process's own for None.

    Returns:
        0, or 1 when a verification failed, 2 when the user must change something, 130 when interrupted.
    """
    arguments = build_parser().parse_args(argv)
    try:
        return _run(arguments)
    except ExporterError as error:
        sys.stderr.write(f"microtome: {error}\n")
        return _VERIFICATION_FAILED if isinstance(error, VerificationFailed) else _USER_ERROR
    except BrokenPipeError:  # `| head` has seen enough; Python would flush once more at exit, and complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        sys.stderr.write("microtome: interrupted, nothing half-written is left.\n")
        return _INTERRUPTED


def build_parser() -> argparse.ArgumentParser:
    """Describe the exporter's command line."""
    parser = argparse.ArgumentParser(prog="microtome", description=exporter.__doc__)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        _module(command).add_to(subparsers)
    return parser


def _run(arguments: argparse.Namespace) -> int:
    code = int(_module(arguments.command).run(arguments))
    sys.stdout.flush()  # a reader that is gone is noticed here, not at exit
    return code


def _module(command: str) -> ModuleType:
    return importlib.import_module(f"exporter.commands.{command}")
