"""The error that ends a run, and how its messages are written."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from microtome.errors import shown

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class EmbedError(Exception):
    """The run cannot be done as asked; the message says why and what to do instead."""


@contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Turn an `OSError` within the block into an `EmbedError` about a file of the result."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            advice = "What is done so far is kept: make room there, and give the same command again."
        else:
            advice = "Expected a folder that this user may write to and that supports locks; or choose another --out."
        raise EmbedError(f"{path} cannot be written: {error.strerror or error}. {advice}") from error


def tell(out: TextIO, text: str, command: str = "embed") -> None:
    """Write one line of a command. A run does not end because its messages have no reader any more."""
    try:
        out.write(f"microtome {command}: {shown(text)}\n")
        out.flush()
    except OSError:  # a closed pipe, a full disk; what is buffered would fail again at exit
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, out.fileno())
        os.close(silent)


@contextmanager
def servers_packages() -> Iterator[None]:
    """Turn an `ImportError` within the block into an `EmbedError` that names the wheel."""
    try:
        yield
    except ImportError as error:
        raise EmbedError(
            f"--saved-model needs the wheel microtome-server, which is not here ({error}): see docs/install.md."
        ) from error
