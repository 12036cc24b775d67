"""The output of `microtome up`: what to try on standard output, everything else on standard error.

On a terminal the status is one line that counts seconds; elsewhere (a file, CI) every new status is a line.
"""

import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.status import Status


class Terminal:
    """Writes complete lines, from any thread, and never fails: a closed terminal must not stop the service."""

    def __init__(self, out: TextIO, err: TextIO) -> None:
        self._out = out
        self._err = err
        self._lock = threading.RLock()
        self._status: Status | None = None
        self._waiting_for: str | None = None

    def say(self, text: str) -> None:
        """Write text that the user asked for."""
        self._write(self._out, text)

    def note(self, text: str) -> None:
        """Write a message of `up` itself."""
        self._write(self._err, f"microtome: {text}")

    def relay(self, line: str) -> None:
        """Write a line of a child's log as it is."""
        self._write(self._err, line)

    def waiting(self, what: str | None, seconds: float = 0.0) -> None:
        """Show what is being waited for, and for how long; None when the wait is over."""
        with self._lock, suppress(OSError, ValueError):
            if what is None:
                if self._status is not None:
                    self._status.stop()
                self._status = None
            elif self._err.isatty():
                self._show(f"{what} … {seconds:.0f} s")
            elif what != self._waiting_for:
                self.note(f"{what} ...")
            self._waiting_for = what

    def _show(self, text: str) -> None:
        if self._status is None:
            from rich.console import Console  # noqa: PLC0415  (only a terminal needs it)

            console = Console(file=self._err, markup=False, highlight=False)
            self._status = console.status("", spinner="dots")
            self._status.start()
        self._status.update(text)

    def _write(self, stream: TextIO, text: str) -> None:
        # A closed stream raises ValueError.
        with self._lock, suppress(OSError, ValueError):
            # While the status is shown, rich replaces sys.stderr to keep the status at the bottom.
            target = sys.stderr if stream is self._err and self._status is not None else stream
            target.write(text + "\n")
            target.flush()
