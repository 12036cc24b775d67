"""Print tables for people, on stdout."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

_WIDEST = 10_000


def print_table(table: Table, console: Console | None = None) -> None:
    """Print a table: as wide as the terminal, or as wide as it is where nobody knows how wide that may be.

    Args:
        table: What is printed.
        console: With settings of the caller's own.
    """
    console = console or Console()
    if console.is_terminal:
        console.print(table)
    else:  # a pipe, a file, a log: half a fingerprint is none
        width = console.measure(table, options=console.options.update(max_width=_WIDEST)).maximum
        Console(width=width, highlight=False).print(table)
