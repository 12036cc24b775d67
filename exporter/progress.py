"""Tell the user what is going on: a spinner on a terminal, plain lines elsewhere; always on stderr."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


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


def counted(items: Iterable[Item], total: int, what: str, *, patience: float = 0) -> Iterator[Item]:
    """Yield the items and show how many have been: a bar on a terminal, a line for every tenth elsewhere.

    Args:
        items: Whatever takes long to come.
        total: How many there will be.
        what: Such as `lite0: looking at the calibration images`.
        patience: Seconds to say nothing for: what mostly takes less is not worth a word.
    """
    rest, done, deadline = iter(items), 0, time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            item = next(rest)
        except StopIteration:
            return
        yield item
        done += 1
    from rich.console import Console  # noqa: PLC0415 -- `--help` must not wait for it
    from rich.progress import track  # noqa: PLC0415

    console = Console(stderr=True, highlight=False)
    if console.is_terminal:
        yield from track(rest, description=what, total=total, completed=done, console=console, transient=True)
        return
    told = -1
    for index, item in enumerate(rest, start=done):
        if index * 10 // total > told:
            told = index * 10 // total
            sys.stderr.write(f"{what} {told * 10} % ...\n")
            sys.stderr.flush()
        yield item


def warn(message: str) -> None:
    """Tell the user what is allowed but probably not meant."""
    sys.stderr.write(f"microtome: warning: {message}\n")
    sys.stderr.flush()
