"""What the scripts that measure pages share: running a command, the data beside a page, and tables."""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that has ended.

    Attributes:
        seconds: Wall-clock time.
        cpu_seconds: Processor time on all cores.
        peak_bytes: Largest resident size.
        printed: Its standard output.
        failed: The reason of a failure, on one line; None if it ended with 0.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    printed: str
    failed: str | None

    @property
    def facts(self) -> Json:
        """Times and memory, or the failure, for a JSON file."""
        if self.failed is not None:
            return {"failed": self.failed}
        return {"seconds": self.seconds, "cpu_seconds": self.cpu_seconds, "peak_bytes": self.peak_bytes}


def microtome(arguments: Sequence[str]) -> Ran:
    """Run `microtome` until it ends."""
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as printed, tempfile.TemporaryFile("w+") as told:
        command = [sys.executable, "-m", "microtome", *arguments]
        process = subprocess.Popen(command, stdout=printed, stderr=told)  # noqa: S603 -- our own command
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        told.seek(0)
        printed.seek(0)
        failed, code = None, os.waitstatus_to_exitcode(status)
        process.returncode = code
        if code < 0:
            failed = f"was ended by {signal.Signals(-code).name}"
        elif code:
            lines = [line for line in told.read().strip().splitlines() if line != "Nothing was published."]
            failed = (lines or [f"ended with {code}"])[-1].removeprefix("microtome: ")
        cpu = round(usage.ru_utime + usage.ru_stime, 3)
        return Ran(round(seconds, 3), cpu, usage.ru_maxrss * 1024, printed.read(), failed)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out a Markdown table."""
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (head, ["---"] * len(head), *rows))


class Page:
    """A page of this folder, and the JSON file that it is made from.

    Args:
        name: Of both files, without an ending.
        text: Lays out the page.
        page: Where the page is, if not beside the data.
    """

    def __init__(self, name: str, text: Callable[[Json], str], page: Path | None = None) -> None:
        self._page, self._data = (Path(__file__).with_name(f"{name}.{ending}") for ending in ("md", "json"))
        self._page = page or self._page
        self._text = text

    def known(self) -> Json:
        """Return what has been measured so far."""
        found: Json = json.loads(self._data.read_text(encoding="utf-8")) if self._data.exists() else {}
        return found

    def save(self, data: Json) -> None:
        """Write the JSON file."""
        self._data.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")

    def write(self, data: Json) -> None:
        """Write both files."""
        self.save(data)
        self._page.write_text(self._text(data), encoding="utf-8")

    def measure(self, names: Collection[str], one: Callable[[str], Json], options: argparse.Namespace) -> int:
        """Measure names that the data lacks, or that are to be measured again; save after each."""
        data = self.known()
        missing = [] if options.page else [name for name in names if name in options.again or name not in data]
        for index, name in enumerate(missing, start=1):
            sys.stderr.write(f"{index} of {len(missing)}: {name}\n")
            data[name] = one(name)
            self.save(data)
        self.write(data)
        return 0


def parser(about: str | None, names: Collection[str] = ()) -> argparse.ArgumentParser:
    """Return a parser with the options that the scripts share."""
    found = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--page", action="store_true", help="measure nothing, only write the page")
    found.add_argument("--machine", default="two shared CPU cores", help="what to call this machine (%(default)s)")
    if names:
        found.add_argument("--again", nargs="+", default=[], choices=names, metavar="NAME", help="measure these again")
    return found
