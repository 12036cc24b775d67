"""Tell the user what is going on: a spinner on a terminal, plain lines elsewhere; always on stderr."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator


@contextlib.contextmanager
def stage(what: str) -> Iterator[None]:
    """Show that something is being done while it is, and how long it took.

    Args:
        what: Such as `lite0: writing`.
    """
    from rich.console import Console  # noqa: PLC0415 -- `--help` must not wait for it

    console = Console(stderr=True, highlight=False)
    started = time.monotonic()
    if console.is_terminal:
        with console.status(f"{what} …"):
            yield
        console.print(f"{what} ({time.monotonic() - started:.1f} s)", style="dim")
    else:
        sys.stderr.write(f"{what} ...\n")
        sys.stderr.flush()
        yield
