"""Latency of requests for one model while another is loaded.

    python bench/loading.py --models DIR --model NAME --large NAME [--rounds 8] [--callers 1]

Both models are in DIR as `microtome export` writes them. Callers ask the served model for one image at a time, each
again as soon as it has its answer. A round is: a version of the large model is published, loaded,
warmed up and announced, then removed; then as long without a load (a minute at most). Rounds are interleaved, so that a
busy machine slows both halves alike. Prints p50 and p99 of both halves, over all rounds, and the ratio of the p99s,
also round by round.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402

from bench.load.calling import calling  # noqa: E402
from bench.reporting.comparison import cell  # noqa: E402
from tests.contract.tfserving.requests import images, predict  # noqa: E402
from tests.contract.tfserving.server_process import Client, ServerProcess, eventually  # noqa: E402

SIDE = 224
SETTLE_SECONDS = 1.0
LONGEST_QUIET_SECONDS = 60.0

Times = npt.NDArray[np.float64]


Round = tuple[Times, Times, float]
"""Seconds that requests took without and with a load, and how long the load was."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True, help="a directory, as `microtome export` writes it")
    parser.add_argument("--model", required=True, help="the model that is asked")
    parser.add_argument("--large", required=True, help="the model that is loaded")
    parser.add_argument("--rounds", type=int, default=8, help="how many loads (8)")
    parser.add_argument("--callers", type=int, default=1, help="how many requests at a time (1)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench") as directory:
        served = Path(directory) / "models"
        (served / options.large).mkdir(parents=True)
        (served / options.model).symlink_to((options.models / options.model).resolve())
        flags = (f"--models_dir={served}", "--enable_batching")
        with ServerProcess(Path(directory) / "server", *flags) as server:
            server.ready()
            source = newest(options.models / options.large)
            rounds = measure(server.address, options, source, served / options.large)
    report(options, rounds)


def measure(address: str, options: argparse.Namespace, source: Path, target: Path) -> list[Round]:
    """Load and unload versions while callers ask all the time."""
    request = predict(options.model, inputs={"images": images(1, side=SIDE)})
    windows = []
    with ExitStack() as ends:
        client, *callers = (ends.enter_context(Client(address)) for _ in range(options.callers + 1))
        client.predict(request, 60)

        def reaches(number: int, state: str, seconds: float) -> float:
            eventually(lambda: client.states(target.name).get(number) == state, f"{number} is {state}", seconds)
            return time.monotonic()

        with calling([partial(caller.predict, request, 60) for caller in callers]) as done:
            for number in range(1, options.rounds + 1):
                publish(source, target, number)
                start, end = reaches(number, "LOADING", 20), reaches(number, "AVAILABLE", 900)
                shutil.rmtree(target / str(number))
                reaches(number, "END", 60)
                time.sleep(SETTLE_SECONDS)
                quiet = time.monotonic()
                time.sleep(min(end - start, LONGEST_QUIET_SECONDS))
                windows.append((start, end, quiet, time.monotonic()))
    began, took = np.array([each[:2] for each in done]).T
    return [
        (took[(began >= quiet) & (began < over)], took[(began >= start) & (began < end)], end - start)
        for start, end, quiet, over in windows
    ]


def publish(source: Path, target: Path, number: int) -> None:
    """Publish a version by a rename."""
    hidden = target / ".tmp"
    shutil.copytree(source, hidden, copy_function=os.link)
    hidden.rename(target / str(number))


def newest(model: Path) -> Path:
    """Return the highest version of a model."""
    return max((path for path in model.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))


def report(options: argparse.Namespace, rounds: Sequence[Round]) -> None:
    """Print both halves and their ratio."""
    seconds = [each[2] for each in rounds]
    print(
        f"{options.model}, {options.callers} callers, while {options.large} is loaded {len(rounds)} times, "
        f"{min(seconds):.1f} to {max(seconds):.1f} s each"
    )
    tails = []
    for half, name in enumerate(("quiet", "loading")):
        took = np.concatenate([each[half] for each in rounds])
        p50, p99, most = np.percentile(took, [50, 99, 100]) * 1e3
        tails.append(p99)
        print(f"  {name:8} {len(took):6} requests, p50 {p50:6.1f} ms, p99 {p99:6.1f} ms, longest {most:6.1f} ms")
    ratios = [float(np.percentile(loading, 99) / np.percentile(quiet, 99)) for quiet, loading, _ in rounds]
    print(f"  p99 loading / quiet: {tails[1] / tails[0]:.2f}; round by round {cell(ratios)}")


if __name__ == "__main__":
    main()
