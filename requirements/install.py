"""Make a virtual environment and install lock files into it, step by step, telling how far it is in few lines.

    python3 requirements/install.py .venv/.ready requirements/gateway.txt ... --where-possible requirements/openvino.txt
    .venv/bin/python requirements/install.py .venv/.tests-ready requirements/dev.txt

The first argument is the file to write at the end, by which make knows that nothing is to be done. With the name .ready
its environment is made, with another one completed. Beside it, a file .installing marks an environment that cannot be
trusted, since pip takes a package for installed that it was interrupted at while unpacking: .ready makes that again.
Calls beside each other wait for each other.

On a terminal the progress is one line that changes; elsewhere one line per large package. pip's own output goes to a
log, whose end is shown when pip fails. Needs Python alone, and runs outside of the environment.
"""

import argparse
import fcntl
import os
import re
import selectors
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

REPOSITORY = Path(__file__).resolve().parents[1]
PIP = ("-m", "pip", "--disable-pip-version-check", "--no-input")
# Bytecode is made when a module is first imported: most never are.
STRICTLY = ("--progress-bar=off", "--no-compile", "--no-deps", "--require-hashes", "--only-binary=:all:")
OURS = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--editable", "./microtome", "--editable", ".")
# What nothing here reads: 236 MB of headers, to compile operations of one's own.
UNUSED = ("tensorflow/include",)
PIN = re.compile(r"^[\w.-]+==[^\\\n]+", re.MULTILINE)
# Markers are read by the library that pip itself has.
NAMES = """
import sys
from pip._vendor.packaging.requirements import Requirement
wanted = map(Requirement, sys.stdin)
print(*{one.name for one in wanted if one.marker is None or one.marker.evaluate()})
"""
COLLECTING = re.compile(r"Collecting (\S+?)==(\S+)")
SIZE = re.compile(r"(?:Downloading|Using cached) \S+ \((\d[\d.]*) ([kMG]?)B\)")
MEGABYTES = {"": 1e-6, "k": 1e-3, "M": 1.0, "G": 1e3}
UNPACKING = "Installing collected packages"
NO_WHEEL = re.compile(r"No matching distribution found for ([\w.-]+)==")
# Then pip does not know what there is.
NO_INDEX = re.compile(r"Retrying \(|Could not fetch URL")
LARGE = 10.0
LOG_LINES = 25


class Failed(Exception):
    """A step that did not succeed; the message has the end of its output."""


class Progress:
    """What is under way, in one line."""

    def __init__(self, packages: int, site: Path, downloads: Path) -> None:
        self._packages = packages
        self._site = site
        self._downloads = downloads
        self._begun = 0
        self._loaded = 0.0
        self._now = "looking at what is there"
        self._unpacking = False
        self._start = time.monotonic()

    def hear(self, line: str) -> None:
        """Take in one line of pip's output."""
        if found := COLLECTING.match(line):
            self._begun += 1
            self._now = f"downloading {found[1]} {found[2]}, package {self._begun} of {self._packages}"
        elif found := SIZE.search(line):
            size = float(found[1]) * MEGABYTES[found[2]]
            self._loaded += size
            if size >= LARGE:
                self._now += f" ({size:.0f} MB)"
                self._mention(f"{self._now}: {self._loaded - size:.0f} MB so far")
        elif line.startswith(UNPACKING):
            self._unpacking = True
            self._now = "unpacking"
            self._mention(f"unpacking what was downloaded, {self._loaded:.0f} MB")

    def show(self) -> None:
        """Redraw the line, with what has come so far and the seconds."""
        if not sys.stdout.isatty():
            return
        if self._unpacking:
            done = f", {sum(1 for _ in self._site.glob('*.dist-info'))} of {self._packages} packages are there"
        else:
            done = f": {sum(file.stat().st_size for file in self._downloads.glob('*/*.whl')) / 1e6:.0f} MB so far"
        self._write(f"\r\033[K  {self._now}{done} … {time.monotonic() - self._start:.0f} s")

    def end(self) -> None:
        """Leave the terminal clean."""
        self._write("\r\033[K" if sys.stdout.isatty() else "")

    def _mention(self, what: str) -> None:
        if not sys.stdout.isatty():
            self._write(f"  {what}, {time.monotonic() - self._start:.0f} s\n")

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


class Environment:
    """A virtual environment, ready or not."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.python = path / "bin" / "python"
        self.doubtful = path / ".installing"
        self.log = path / "install.log"

    @property
    def site(self) -> Path:
        """Where its packages are."""
        return next(self.path.glob("lib/python3.*/site-packages"))

    @property
    def sound(self) -> bool:
        """Whether it is there, works, and no installation into it was interrupted."""
        if self.doubtful.exists() or not self.python.exists():
            return False
        return subprocess.run([self.python, *PIP, "--version"], capture_output=True, check=False).returncode == 0  # noqa: S603

    def make(self) -> None:
        """Make it, in place of what is there."""
        shutil.rmtree(self.path, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", self.path], check=True)  # noqa: S603

    def wanted(self, locks: Sequence[Path]) -> frozenset[str]:
        """Name the packages that lock files have for this system and Python."""
        pins = "\n".join(pin for lock in locks for pin in PIN.findall(lock.read_text(encoding="utf-8")))
        words = [str(self.python), "-c", NAMES]
        return frozenset(subprocess.run(words, input=pins, capture_output=True, text=True, check=True).stdout.split())  # noqa: S603

    def install(self, locks: Sequence[Path]) -> str | None:
        """Install the lock files; return the package that there is no wheel of for this system, if there is one.

        Raises:
            Failed: pip did not succeed.
        """
        wanted = self.wanted(locks)
        self.doubtful.touch()
        self._replace(wanted)
        downloads = self.path / "downloads"
        shutil.rmtree(downloads, ignore_errors=True)
        downloads.mkdir()
        interrupted = False
        progress = Progress(len(wanted), self.site, downloads)
        words = [self.python, *PIP, "install", *STRICTLY, *(word for lock in locks for word in ("-r", lock))]
        with (
            self.log.open("wb") as log,
            subprocess.Popen(  # noqa: S603
                words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, "TMPDIR": str(downloads)}
            ) as pip,
        ):
            if pip.stdout is not None:
                try:
                    follow(pip.stdout, progress, log)
                except KeyboardInterrupt:
                    log.write(pip.stdout.read())
                    interrupted = True
        progress.end()
        for directory in (downloads, *(self.site / name for name in UNUSED)):
            shutil.rmtree(directory, ignore_errors=True)
        said = self.log.read_text(errors="replace")
        if UNPACKING not in said:
            # Nothing was changed.
            self.doubtful.unlink(missing_ok=True)
        if interrupted:
            raise KeyboardInterrupt
        if pip.returncode != 0:
            if (found := NO_WHEEL.search(said)) and not NO_INDEX.search(said):
                return found[1]
            raise Failed(self.end_of_log())
        return None

    def end_of_log(self) -> str:
        """Return the last lines that pip wrote."""
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        return "\n".join(lines) + f"\n(the whole log: {self.log})"

    def install_ours(self) -> None:
        """Install Microtome itself: this checkout, as it is and as it changes.

        Raises:
            Failed: pip did not succeed.
        """
        done = subprocess.run(  # noqa: S603
            [self.python, *PIP, "install", *OURS], cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise Failed(done.stdout + done.stderr)

    def _replace(self, wanted: frozenset[str]) -> None:
        """Remove TensorFlow's other package: both have the same files."""
        for new, old in (("tensorflow-cpu", "tensorflow"), ("tensorflow", "tensorflow-cpu")):
            if new in wanted and old not in wanted and any(self.site.glob(f"{old.replace('-', '_')}-[0-9]*.dist-info")):
                subprocess.run([self.python, *PIP, "uninstall", "--quiet", "--yes", old], check=True)  # noqa: S603


def main() -> int:
    """Make or complete the environment, unless another call has just done so; return the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("marker", type=Path)
    parser.add_argument("locks", type=Path, nargs="+")
    parser.add_argument("--where-possible", type=Path, action="append", default=[], metavar="LOCK")
    parser.add_argument("--ours", action="store_true", help="install this checkout as well")
    options = parser.parse_args()
    asked = time.time()
    with alone():
        environment = Environment(options.marker.parent)
        if environment.sound and options.marker.exists() and options.marker.stat().st_mtime > asked:
            return 0
        try:
            install(environment, options)
        except Failed as failure:
            sys.stderr.write(f"{failure}\n")
            return 1
        environment.doubtful.unlink(missing_ok=True)
        # Where it stands: an environment that was moved is made again.
        options.marker.write_text(f"{REPOSITORY}\n", encoding="utf-8")
    return 0


def install(environment: Environment, options: argparse.Namespace) -> None:
    """Do what is to be done, in two to four steps.

    Raises:
        Failed: One of them did not succeed.
    """
    begin = time.monotonic()
    new = not environment.sound
    if new and options.marker.name != ".ready":
        raise Failed("An installation before this one was interrupted. The same command again begins with that one.")
    steps = iter(range(1, 9))
    count = 1 + new + options.ours

    def tell(what: str) -> None:
        sys.stdout.write(f"{next(steps)} of {count}: {what}\n")
        sys.stdout.flush()

    if new:
        tell(f"a virtual environment, {environment.path}")
        environment.make()
    wanted = [*options.where_possible, *options.locks]
    tell(f"packages of {', '.join(lock.stem for lock in wanted)}")
    if missing := environment.install(wanted):
        lacking = [lock for lock in options.where_possible if missing in environment.wanted([lock])]
        if not lacking or environment.install([lock for lock in wanted if lock not in lacking]):
            raise Failed(environment.end_of_log())
        sys.stdout.write(f"  {missing} has no wheel for this system, and is left out: see docs/install.md\n")
    if options.ours:
        tell("Microtome itself")
        environment.install_ours()
    sys.stdout.write(f"Installed in {time.monotonic() - begin:.0f} s.\n")


@contextmanager
def alone() -> Iterator[None]:
    """Wait for other calls in this checkout to end."""
    place = os.open(REPOSITORY / "requirements", os.O_RDONLY)
    try:
        try:
            fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.stdout.write("Another make installs here; waiting until it is done.\n")
            sys.stdout.flush()
            fcntl.flock(place, fcntl.LOCK_EX)
        yield
    finally:
        os.close(place)


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
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
