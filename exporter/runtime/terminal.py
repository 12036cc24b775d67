"""Print progress and warnings on stderr and tables on stdout.

A terminal gets spinners, bars and tables of its own width; pipes and files get plain lines. Names come from recipes and
models, so what a terminal or rich would obey in them is escaped. rich is imported late: `--help` does not need it.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from microtome.errors import shown

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_WIDEST = 10_000
_SECONDS_BETWEEN_LINES = 30

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
        from rich.markup import escape  # noqa: PLC0415

        plain = escape(shown(what))
        with console.status(f"{plain} …"):
            yield
        console.print(f"{plain} ({time.monotonic() - started:.1f} s)", style="dim")
    else:
        _write(f"{what} ...")
        yield


def counted(items: Iterable[Item], total: int, what: str, *, delay: float = 0) -> Iterator[Item]:
    """Yield the items and show progress: a bar on a terminal; elsewhere a line each tenth and each half minute.

    Both say how long it will go on.

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
        from rich.markup import escape  # noqa: PLC0415
        from rich.progress import track  # noqa: PLC0415

        yield from track(
            rest, description=escape(shown(what)), total=total, completed=done, console=console, transient=True
        )
        return
    tenth, begin = -1, time.monotonic()
    said = begin
    for index, item in enumerate(rest, start=done):
        now = time.monotonic()
        if index * 10 // total > tenth or now - said >= _SECONDS_BETWEEN_LINES:
            tenth, said = index * 10 // total, now
            left = round((now - begin) / (index - done) * (total - index)) if index > done else 0
            to_go = f" {left // 3600}:{left // 60 % 60:02}:{left % 60:02} to go" if left else ""
            _write(f"{what} {index * 100 // total} % ...{to_go}")
        yield item


def say(line: str) -> None:
    """Print a line about what is going on."""
    _write(line)


def warn(message: str) -> None:
    """Print a warning about something that is allowed but probably unintended."""
    _write(f"microtome: warning: {message}")


class timed:  # noqa: N801 -- a context manager that reads as a verb
    """Record the seconds that a block takes, by the clock and by the processor."""

    def __init__(self, timing: dict[str, Any], name: str) -> None:
        self._timing, self._name = timing, name

    def __enter__(self) -> None:
        self._clock, self._processor = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        self._timing[self._name] = {
            "clock": round(time.perf_counter() - self._clock, 2),
            "processor": round(time.process_time() - self._processor, 2),
        }


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str | Text]],
    *,
    title: str | None = None,
    console: Console | None = None,
) -> None:
    """Print a table on stdout: as wide as the terminal, or unwrapped in a pipe or file.

    Args:
        columns: Headings.
        rows: Cells; a `Text` has its own style.
        title: Printed above the table.
        console: Another console than stdout's.
    """
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*(Text(shown(cell)) if isinstance(cell, str) else cell for cell in row))
    console = console or Console()
    if not console.is_terminal:  # half a fingerprint in a log is useless
        width = console.measure(table, options=console.options.update(max_width=_WIDEST)).maximum
        console = Console(width=width, highlight=False)
    console.print(table)


def _stderr() -> Console:
    from rich.console import Console  # noqa: PLC0415

    return Console(stderr=True, highlight=False)


def _write(line: str) -> None:
    sys.stderr.write(f"{shown(line)}\n")
    sys.stderr.flush()
