"""The model server under full load while versions come and go.

    python bench/soak.py [--minutes 10] [--clients 32]

Every 20 s a new version of the model is published and the oldest is removed; every minute one that cannot be loaded is.
Clients never name a version, so no request may fail. Prints requests, failures by status, swaps, and what the process
had resident (VmRSS) in the second minute and in the last.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import grpc

from tests.contract.tfserving.requests import images, predict
from tests.contract.tfserving.server_process import Client, ServerProcess
from tests.contract.tfserving.tiny_models import write_tiny

SWAP_SECONDS, BREAK_SECONDS = 20.0, 60.0


def main() -> int:
    """Run, print, and return 1 when a request failed or memory grew by more than a tenth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (10)")
    parser.add_argument("--clients", type=int, default=32, help="callers at a time, of one image each (32)")
    options = parser.parse_args()
    outcomes: Counter[str] = Counter()
    stop = threading.Event()
    with tempfile.TemporaryDirectory(prefix="soak") as directory:
        model = Path(directory) / "models" / "tiny"
        write_tiny(model / "1")
        flags = (f"--models_dir={model.parent}", "--enable_batching", "--max_num_load_retries=0")
        with ServerProcess(Path(directory) / "server", *flags) as server:
            server.ready()
            threads = [
                threading.Thread(target=call, args=(server.address, seed, stop, outcomes))
                for seed in range(options.clients)
            ]
            for thread in threads:
                thread.start()
            samples, swaps = publish(model, server.process.pid, options.minutes * 60)
            stop.set()
            for thread in threads:
                thread.join()
    return report(outcomes, samples, swaps, options.minutes)


def call(address: str, seed: int, stop: threading.Event, outcomes: "Counter[str]") -> None:
    """Ask again and again, and count how it ends."""
    request = predict(inputs={"images": images(1, seed)})
    mine: Counter[str] = Counter()
    with Client(address) as client:
        while not stop.is_set():
            try:
                client.predict(request)
                mine["OK"] += 1
            except grpc.RpcError as error:
                mine[f"{error.code().name}: {error.details()}"] += 1
    outcomes.update(mine)


def publish(model: Path, pid: int, seconds: float) -> tuple[list[tuple[float, float]], int]:
    """Swap and break versions for as long as told.

    Returns:
        Times and resident megabytes, twice a second, and how often a version was swapped.
    """
    began, version, swaps, breaks = time.monotonic(), 1, 0, 0
    samples = []
    while (now := time.monotonic() - began) < seconds:
        if now > (swaps + 1) * SWAP_SECONDS:
            swaps += 1
            version += 1
            write_tiny(model / str(version))
            for old in sorted(int(path.name) for path in model.iterdir() if path.name.isdigit())[:-2]:
                shutil.rmtree(model / str(old))
        if now > (breaks + 0.5) * BREAK_SECONDS:
            breaks += 1
            version += 1
            (model / str(version)).mkdir()
        samples.append((now, resident_megabytes(pid)))
        time.sleep(0.5)
    return samples, swaps


def resident_megabytes(pid: int) -> float:
    """What a process has in memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("VmRSS:"))


def report(outcomes: "Counter[str]", samples: list[tuple[float, float]], swaps: int, minutes: float) -> int:
    """Print, and judge."""
    failures = outcomes.total() - outcomes["OK"]
    early = statistics.mean(value for when, value in samples if 60 <= when < 120 or minutes < 2)
    late = statistics.mean(value for when, value in samples if when >= minutes * 60 - 60)
    print(f"{outcomes.total()} requests in {minutes:g} min, {failures} failed, {swaps} versions swapped")
    for outcome, count in outcomes.most_common():
        print(f"  {count:8} {outcome}")
    print(f"resident: second minute {early:.0f} MB, last minute {late:.0f} MB ({late / early - 1:+.1%})")
    return int(failures > 0 or late > 1.1 * early)


if __name__ == "__main__":
    sys.exit(main())
