"""The exporter's command line: every command of `exporter.commands`.

TensorFlow, YAML and rich are imported late, so `--help` and a mistyped option answer immediately.
"""

import argparse
import importlib
import os
import sys
from types import ModuleType

import exporter
from exporter.commands import COMMANDS
from exporter.errors import ExporterError, VerificationFailed
from microtome.errors import shown

_VERIFICATION_FAILED = 1
_USER_ERROR = 2
_INTERRUPTED = 130


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: Arguments without the program's name; None for those of the process.

    Returns:
        0, or 1 if a verification failed, 2 if the user must change something, 130 if interrupted.
    """
    arguments = build_parser().parse_args(argv)
    try:
        return _run(arguments)
    except ExporterError as error:
        # Names in a message may come from a file that is not trusted; some messages have several lines.
        lines = "\n".join(map(shown, str(error).split("\n")))
        sys.stderr.write(f"microtome: {lines}\n")
        return _VERIFICATION_FAILED if isinstance(error, VerificationFailed) else _USER_ERROR
    except BrokenPipeError:  # such as `| head`; Python's flush at exit would fail again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        sys.stderr.write("microtome: interrupted, nothing half-written is left.\n")
        return _INTERRUPTED


def build_parser() -> argparse.ArgumentParser:
    """Describe the exporter's command line."""
    parser = argparse.ArgumentParser(prog="microtome", description=exporter.__doc__)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command, text in COMMANDS.items():
        module = _module(command)
        module.add_arguments(subparsers.add_parser(command, help=text, description=module.DESCRIPTION))
    return parser


def _run(arguments: argparse.Namespace) -> int:
    code = int(_module(arguments.command).run(arguments))
    sys.stdout.flush()  # a closed pipe raises here and not at exit
    return code


def _module(command: str) -> ModuleType:
    return importlib.import_module(f"exporter.commands.{command}")
