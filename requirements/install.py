"""Install the lock files into this virtual environment, telling what is under way in few lines.

pip's own output is either nothing for minutes or hundreds of lines. On a terminal this is one line that changes;
elsewhere one line per large package. The whole output goes to a log, whose end is shown when pip fails.

    .venv/bin/python requirements/install.py requirements/gateway.txt ...
"""

import os
import re
import selectors
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

LOG = Path(sys.prefix) / "install.log"
PIP = (sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--progress-bar=off")
STRICTLY = ("--no-deps", "--require-hashes", "--only-binary=:all:")
COLLECTING = re.compile(r"Collecting (\S+?)==(\S+)")
SIZE = re.compile(r"(?:Downloading|Using cached) .*\((\d[\d.]* [kMG]B)\)")
LARGE = re.compile(r"(\d{2,}[\d.]* MB|[\d.]+ GB)")
LOG_LINES = 25


class Progress:
    """What pip is doing, in one line."""

    def __init__(self, packages: int) -> None:
        self._packages = packages
        self._begun = 0
        self._now = "looking at what is there"
        self._start = time.monotonic()

    def hear(self, line: str) -> None:
        """Take in one line of pip's output."""
        if found := COLLECTING.match(line):
            self._begun += 1
            self._now = f"package {self._begun} of {self._packages}: {found[1]} {found[2]}"
        elif found := SIZE.search(line):
            self._now += f" ({found[1]})"
            if LARGE.fullmatch(found[1]) and not sys.stdout.isatty():
                self._write(f"  {self._now}\n")
        elif line.startswith("Installing collected packages"):
            self._now = "unpacking, which takes a minute or two"
            if not sys.stdout.isatty():
                self._write(f"  {self._now}\n")

    def show(self) -> None:
        """Redraw the line, with the seconds so far."""
        if sys.stdout.isatty():
            self._write(f"\r\033[K  {self._now} … {time.monotonic() - self._start:.0f} s")

    def end(self) -> None:
        """Leave the terminal clean."""
        self._write("\r\033[K" if sys.stdout.isatty() else "")

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def main(locks: list[str]) -> int:
    """Run pip over the lock files and return its exit code."""
    pins = {pin for lock in locks for pin in re.findall(r"^[\w.-]+==\S+", Path(lock).read_text(), re.MULTILINE)}
    progress = Progress(len(pins))
    words = [*PIP, *STRICTLY, *(word for lock in locks for word in ("-r", lock))]
    with (
        LOG.open("wb") as log,
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as pip,  # noqa: S603
    ):
        if pip.stdout is not None:
            follow(pip.stdout, progress, log)
    progress.end()
    if pip.returncode != 0:
        sys.stderr.write(
            "\n".join(LOG.read_text(errors="replace").splitlines()[-LOG_LINES:]) + f"\n(the whole log: {LOG})\n"
        )
    return pip.returncode


def follow(output: IO[bytes], progress: Progress, log: IO[bytes]) -> None:
    """Read to the end, redrawing at least once a second."""
    unfinished = b""
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        while True:
            progress.show()
            if not selector.select(timeout=1.0):
                continue
            # Past Python's buffer, which the selector does not know of.
            piece = os.read(output.fileno(), 65536)
            if not piece:
                return
            log.write(piece)
            *lines, unfinished = (unfinished + piece).split(b"\n")
            for line in lines:
                progress.hear(line.decode(errors="replace").strip())


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
