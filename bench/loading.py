"""Latency of requests for one model while another is loaded.

    python bench/loading.py --models DIR --model NAME --large NAME [--rounds 8] [--callers 1]

Both models are in DIR as `microtome export` writes them. A process of its own asks the served model for one image at
a time, each caller again as soon as it has its answer. A round is: a version of the large model is published, loaded,
warmed up and announced, then removed; then as long without a load (a minute at most). Rounds are interleaved, so that a
busy machine slows both halves alike. Prints p50 and p99 of both halves, over all rounds, and the ratio of the p99s,
also round by round.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402

from tests.contract.tfserving.requests import images, predict  # noqa: E402
from tests.contract.tfserving.server_process import Client, ServerProcess, eventually  # noqa: E402

SIDE = 224
SETTLE_SECONDS = 1.0
LONGEST_QUIET_SECONDS = 60.0

Times = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Round:
    """Seconds that requests took in both halves of a round, and how long the load was."""

    quiet: Times
    loading: Times
    seconds: float


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, help="a models directory, as `microtome export` writes it")
    parser.add_argument("--model", help="the model that is asked")
    parser.add_argument("--large", help="the model that is loaded")
    parser.add_argument("--rounds", type=int, default=8, help="how many loads (8)")
    parser.add_argument("--callers", type=int, default=1, help="how many requests at a time (1)")
    parser.add_argument("--flags", default="", help="more flags for the server, separated by spaces")
    parser.add_argument("--ask", nargs=3, metavar=("ADDRESS", "MODEL", "CALLERS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ask:
        ask(options.ask[0], options.ask[1], int(options.ask[2]))
        return
    with tempfile.TemporaryDirectory(prefix="bench") as directory:
        served = Path(directory) / "models"
        (served / options.large).mkdir(parents=True)
        (served / options.model).symlink_to((options.models / options.model).resolve())
        flags = (f"--models_dir={served}", "--enable_batching", *options.flags.split())
        with ServerProcess(Path(directory) / "server", *flags) as server:
            server.ready()
            source = newest(options.models / options.large)
            halves = measure(server.address, options, source, served / options.large)
    report(options, halves)


def measure(address: str, options: argparse.Namespace, source: Path, target: Path) -> list[Round]:
    """Run the rounds while another process asks all the time."""
    words = [sys.executable, __file__, "--ask", address, options.model, str(options.callers)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    windows = []
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as asking:
        assert asking.stdout
        asking.stdout.readline()
        with Client(address) as client:
            for number in range(1, options.rounds + 1):
                publish(source, target, number)
                eventually(lambda: client.states(target.name).get(number) == "LOADING", "the load begins")  # noqa: B023
                start = time.monotonic()
                eventually(lambda: client.states(target.name).get(number) == "AVAILABLE", "it is loaded", 900)  # noqa: B023
                end = time.monotonic()
                shutil.rmtree(target / str(number))
                eventually(lambda: client.states(target.name).get(number) == "END", "it is unloaded", 60)  # noqa: B023
                time.sleep(SETTLE_SECONDS)
                quiet = time.monotonic()
                time.sleep(min(end - start, LONGEST_QUIET_SECONDS))
                windows.append((start, end, quiet, time.monotonic()))
        out, _ = asking.communicate("stop\n")
    asked = np.array([[float(word) for word in line.split()] for line in out.splitlines()])
    began_at, took = asked.T
    return [
        Round(took[(began_at >= quiet) & (began_at < over)], took[(began_at >= start) & (began_at < end)], end - start)
        for start, end, quiet, over in windows
    ]


def publish(source: Path, target: Path, number: int) -> None:
    """Publish a version by a rename."""
    hidden = target / ".tmp"
    shutil.copytree(source, hidden, copy_function=os.link)
    hidden.rename(target / str(number))


def ask(address: str, model: str, callers: int) -> None:
    """Ask until a line on standard input, then print when each request began and how long it took."""
    request = predict(model, inputs={"images": images(1, side=SIDE)})
    stop = threading.Event()
    lines: list[str] = []

    def run() -> None:
        with Client(address) as client:
            while not stop.is_set():
                began = time.monotonic()
                client.predict(request, 60)
                lines.append(f"{began} {time.monotonic() - began}")

    with Client(address) as client:
        client.predict(request, 60)
    threads = [threading.Thread(target=run) for _ in range(callers)]
    for thread in threads:
        thread.start()
    print("asking", flush=True)
    sys.stdin.readline()
    stop.set()
    for thread in threads:
        thread.join()
    print("\n".join(lines))


def newest(model: Path) -> Path:
    """Return the highest version of a model."""
    return max((path for path in model.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))


def report(options: argparse.Namespace, halves: Sequence[Round]) -> None:
    """Print both halves and their ratio."""
    quiet = np.concatenate([half.quiet for half in halves])
    loading = np.concatenate([half.loading for half in halves])
    seconds = [half.seconds for half in halves]
    print(
        f"{options.model}, {options.callers} callers, while {options.large} is loaded {len(halves)} times, "
        f"{min(seconds):.1f} to {max(seconds):.1f} s each"
    )
    for name, took in (("quiet", quiet), ("loading", loading)):
        p50, p99, most = np.percentile(took, [50, 99, 100]) * 1e3
        print(f"  {name:8} {len(took):6} requests, p50 {p50:6.1f} ms, p99 {p99:6.1f} ms, longest {most:6.1f} ms")
    ratios = [np.percentile(half.loading, 99) / np.percentile(half.quiet, 99) for half in halves]
    print(
        f"  p99 loading / quiet: {np.percentile(loading, 99) / np.percentile(quiet, 99):.2f} "
        f"(rounds: median {np.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f})"
    )


if __name__ == "__main__":
    main()
