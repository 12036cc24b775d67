"""Progress of a run on standard error: a bar on a terminal, a line from time to time elsewhere."""

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Self, TextIO

from microtome.client.retries import Retry
from microtome.commands.embed.errors import tell
from microtome.errors import shown

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

_LINE_SECONDS = 10.0
_WORTH_SAYING = 2
"""Failed attempts before a message: a single refusal is how a busy gateway slows its callers down."""


class Progress:
    """Shows counts, rate, time left and what the run waits for; safe to use from many threads."""

    def __init__(
        self,
        total: int | None,
        done: int,
        out: TextIO,
        clock: Callable[[], float] = time.monotonic,
        command: str = "embed",
    ) -> None:
        """Start the clock.

        Args:
            total: number of images, if known.
            done: images done before this process started.
            out: where to write.
            clock: monotonic seconds.
            command: whose progress it is.
        """
        self._total, self._done, self._before, self._failed = total, done, done, 0
        self._out, self._clock, self._command = out, clock, command
        self._start = self._said = clock()
        self._waiting = False
        self._lock = threading.Lock()
        self._bar: Bar | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        if self._out.isatty():
            self._begin_bar()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()
        else:
            self._line()

    def expect(self, total: int | None) -> None:
        """Say how many images there are, once that is known."""
        self._total = total
        if self._bar and self._task is not None:
            self._bar.update(self._task, total=total)

    def advance(self, *, failed: int, images: int = 1) -> None:
        """Count images that are done, some of which failed."""
        with self._lock:
            self._done += images
            self._failed += failed
            if self._waiting:
                self._waiting = False
                self.note("the gateway answers again")
        if self._bar and self._task is not None:
            failures = f"{self._failed} failed" if self._failed else ""
            self._bar.update(self._task, completed=self._done, failed=failures, rate=f"{self._rate():.0f}/s")
        elif self._clock() - self._said >= _LINE_SECONDS:
            self._line()

    def retrying(self, retry: Retry) -> None:
        """Show that an attempt failed and will be repeated."""
        with self._lock:
            if retry.attempt >= _WORTH_SAYING and not self._waiting:
                self._waiting = True
                self.note(f"waiting, and trying again: {retry.error}")

    def _begin_bar(self) -> None:
        from rich import progress  # noqa: PLC0415, only a terminal needs it
        from rich.console import Console  # noqa: PLC0415

        self._bar = progress.Progress(
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[rate]}"),
            progress.TimeRemainingColumn(),
            progress.TextColumn("[red]{task.fields[failed]}"),
            console=Console(file=self._out, markup=True, highlight=False),
            speed_estimate_period=30,
        )
        self._task = self._bar.add_task("", total=self._total, completed=self._done, failed="", rate="")
        self._bar.start()

    def _line(self) -> None:
        self._said = self._clock()
        self.note(self.summary())

    def summary(self) -> str:
        """Return counts, rate and time left, in words."""
        rate = self._rate()
        parts = [f"{self._done}{'' if self._total is None else f' of {self._total}'} images", f"{rate:.0f} a second"]
        if self._total is not None and rate and self._done < self._total:
            parts.append(f"{_duration((self._total - self._done) / rate)} to go")
        if self._failed:
            parts.append(f"{self._failed} failed")
        return ", ".join(parts)

    def _rate(self) -> float:
        return (self._done - self._before) / max(self._clock() - self._start, 1e-6)

    def note(self, text: str) -> None:
        """Show a message."""
        if self._bar:
            self._bar.console.print(f"microtome {self._command}: {shown(text)}", markup=False, soft_wrap=True)
        else:
            tell(self._out, text, self._command)


def _duration(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
