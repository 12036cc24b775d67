"""Reads ``--flag=value`` arguments by the table in ``flags``."""

import difflib
from collections.abc import Mapping, Sequence

from modelserver.flags import FLAGS, Flag, Meaning, Value

_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


class UsageError(Exception):
    """The command line is wrong; the text says what was expected."""


def parse(argv: Sequence[str]) -> Mapping[str, Value]:
    """Read the arguments.

    Args:
        argv: Without the program's name. ``--name`` alone switches a boolean on.

    Returns:
        The value of every flag that was given.

    Raises:
        UsageError: An unknown flag, a stray word, or a value of the wrong kind. The real server ignores unknown flags;
            a typo should not.
    """
    given = {}
    for argument in argv:
        if not argument.startswith("--"):
            raise UsageError(f"Expected --flag=value. Received: {argument!r}")
        name, equals, text = argument[2:].partition("=")
        flag = FLAGS.get(name)
        if flag is None:
            near = difflib.get_close_matches(name, FLAGS, n=3)
            nearest = ", ".join(f"--{other}" for other in near) or "none; --help lists all"
            raise UsageError(f"Unknown flag: --{name}. Nearest: {nearest}")
        if not equals and not isinstance(flag.default, bool):
            raise UsageError(f"Expected --{name}=<{type(flag.default).__name__}>. Received: {argument!r}")
        given[name] = _value(flag, text if equals else "true")
    return given


def _value(flag: Flag, text: str) -> Value:
    try:
        if isinstance(flag.default, bool):
            return _BOOLEANS[text.lower()]
        return type(flag.default)(text)
    except (KeyError, ValueError):
        kind = type(flag.default).__name__
        raise UsageError(f"Expected --{flag.name}=<{kind}>. Received: {text!r}") from None


def usage() -> str:
    """Describe every flag, in the order of the table, those without meaning here last and by name only."""
    lines = [
        "usage: python -m modelserver --flag=value ...",
        "",
        "Serve SavedModels with TensorFlow Serving's gRPC API.",
        "",
    ]
    for flag in FLAGS.values():
        if flag.meaning is Meaning.NONE:
            continue
        ours = " [not in TensorFlow Serving]" if flag.meaning is Meaning.OURS else ""
        shown = str(flag.default).lower() if isinstance(flag.default, bool) else repr(flag.default)
        lines.append(f"  --{flag.name}={shown}{ours}\n        {flag.help}")
    idle = ", ".join(f"--{flag.name}" for flag in FLAGS.values() if flag.meaning is Meaning.NONE)
    return "\n".join([*lines, "", f"Accepted, without meaning here: {idle}"])
