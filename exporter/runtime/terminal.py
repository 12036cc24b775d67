"""Print progress and warnings on stderr and tables on stdout.

A terminal gets spinners, bars and tables of its own width; pipes and files get plain lines. rich is imported late
because `--help` does not need it.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

_WIDEST = 10_000

Item = TypeVar("Item")


@contextlib.contextmanager
def stage(what: str) -> Iterator[None]:
    """Show what runs while the block runs, and on a terminal how long it took.

    Args:
        what: Such as `lite0: writing`.
    """
    console = _stderr()
    started = time.monotonic()
    if console.is_terminal:
        with console.status(f"{what} …"):
            yield
        console.print(f"{what} ({time.monotonic() - started:.1f} s)", style="dim")
    else:
        _write(f"{what} ...")
        yield


def counted(items: Iterable[Item], total: int, what: str, *, delay: float = 0) -> Iterator[Item]:
    """Yield the items and show progress: a bar on a terminal, one line per tenth elsewhere.

    Args:
        items: The items.
        total: Number of items.
        what: Such as `lite0: reading the calibration images`.
        delay: Seconds before anything is shown, for work that is usually short.
    """
    rest, done, deadline = iter(items), 0, time.monotonic() + delay
    while time.monotonic() < deadline:
        try:
            item = next(rest)
        except StopIteration:
            return
        yield item
        done += 1
    console = _stderr()
    if console.is_terminal:
        from rich.progress import track  # noqa: PLC0415

        yield from track(rest, description=what, total=total, completed=done, console=console, transient=True)
        return
    shown = -1
    for index, item in enumerate(rest, start=done):
        if index * 10 // total > shown:
            shown = index * 10 // total
            _write(f"{what} {shown * 10} % ...")
        yield item


def warn(message: str) -> None:
    """Print a warning about something that is allowed but probably unintended."""
    _write(f"microtome: warning: {message}")


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None, console: Console | None = None
) -> None:
    """Print a table on stdout: as wide as the terminal, or unwrapped in a pipe or file.

    Args:
        columns: Headings.
        rows: Cells, which may contain rich markup.
        title: Printed above the table.
        console: Another console than stdout's.
    """
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    console = console or Console()
    if not console.is_terminal:  # half a fingerprint in a log is useless
        width = console.measure(table, options=console.options.update(max_width=_WIDEST)).maximum
        console = Console(width=width, highlight=False)
    console.print(table)


def _stderr() -> Console:
    from rich.console import Console  # noqa: PLC0415

    return Console(stderr=True, highlight=False)


def _write(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
