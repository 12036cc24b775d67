"""What the first `make run` in a fresh clone costs: bytes downloaded, disk and seconds, step by step.

    python3 bench/first_run.py                 # HEAD of this repository
    python3 bench/first_run.py --commit NAME   # as it was then

The clone, and an empty HOME beside it, are in a directory that is removed at the end. pip has no cache, and no settings
beside those in PIP_CERT and PIP_INDEX_URL. Needs nothing but Python and git.
"""

import argparse
import os
import re
import resource
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
KEPT = (
    "PATH",
    "LANG",
    "LC_ALL",
    "PIP_CERT",
    "PIP_INDEX_URL",
    "PIP_DEFAULT_TIMEOUT",
    "SSL_CERT_FILE",
    "HTTPS_PROXY",
    "https_proxy",
)
DOWNLOADED = re.compile(r"Downloading \S+ \(([\d.]+) (k|M|G)?B\)")
UNITS = {None: 1e-6, "k": 1e-3, "M": 1.0, "G": 1e3}
WHEN_READY = "Microtome serves"


def main() -> None:
    """Measure, and print a row for each step."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--commit", default="HEAD", help="what to measure (HEAD)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="first-run-") as place:
        clone, home = Path(place, "microtome"), Path(place, "home")
        home.mkdir()
        subprocess.run(["git", "clone", "--quiet", "--no-checkout", str(REPOSITORY), str(clone)], check=True)
        subprocess.run(["git", "checkout", "--quiet", "--detach", _commit(options.commit)], cwd=clone, check=True)
        environment = {name: os.environ[name] for name in KEPT if name in os.environ} | {
            "HOME": str(home),
            "PIP_NO_CACHE_DIR": "1",
            "PIP_CONFIG_FILE": os.devnull,
        }
        print("| step | MB downloaded | MB of disk | seconds | of processors |\n|---|---|---|---|---|")
        used, before = _used(), 0.0
        for step, seconds in _steps(clone, environment):
            log = (clone / ".venv/install.log").read_text(errors="replace")
            loaded = sum(float(size) * UNITS[unit or None] for size, unit in DOWNLOADED.findall(log))
            print(
                f"| {step} | {loaded - before:.0f} | {_megabytes(clone)} | {seconds:.0f} | {_used() - used:.0f} |",
                flush=True,
            )
            used, before = _used(), loaded
        print(f"\nIn HOME: {_megabytes(home)} MB.")


def _commit(name: str) -> str:
    words = ["git", "rev-parse", name]
    return subprocess.run(words, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout.strip()


def _steps(clone: Path, environment: Mapping[str, str]) -> Iterator[tuple[str, float]]:
    """Yield each step's name and seconds once it is done."""
    begin = time.monotonic()
    subprocess.run(["make", ".venv/.ready"], cwd=clone, env=environment, check=True)
    yield "install", time.monotonic() - begin
    yield "first start: export, load, serve", _start(clone, environment)
    yield "next start", _start(clone, environment)


def _start(clone: Path, environment: Mapping[str, str]) -> float:
    """Run `make run` until it says what to try; return the seconds until then."""
    begin = time.monotonic()
    words = ["make", "run", "ARGS=--port 0"]
    with subprocess.Popen(
        words, cwd=clone, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as run:
        ready = next((time.monotonic() for line in run.stdout or () if line.startswith(WHEN_READY)), None)
        os.killpg(run.pid, signal.SIGINT)
        run.communicate()
    if ready is None:
        raise SystemExit("make run ended before it served; what it said is above.")
    return ready - begin


def _used() -> float:
    """Return the processor seconds of all that has ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _megabytes(directory: Path) -> int:
    """Return the disk that a directory takes, hard links counted once."""
    words = ["du", "-sk", str(directory)]
    return round(int(subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()[0]) * 1024 / 1e6)


if __name__ == "__main__":
    main()
