"""The model server under full load while versions come and go.

    python bench/soak.py [--minutes 10] [--clients 32]

Every 20 s a new version of the model is published and the oldest is removed; every minute one that cannot be loaded is.
One client in four names the version that it wants, the newest that can be loaded. The exit status is 0 when both of
these hold:

* No request failed, except those that named a version which was not loaded: NOT_FOUND, Specific(...).
* The resident memory (VmRSS) of the last minute is within 10 % of that of the second. Needs three minutes.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import grpc

from bench.load.calling import calling
from bench.processes.usage import resident_megabytes
from tests.contract.tfserving.requests import images, predict
from tests.contract.tfserving.server_process import Client, ServerProcess
from tests.contract.tfserving.tiny_models import write_tiny

SWAP_SECONDS, BREAK_SECONDS = 20.0, 60.0
NAMING = 4
"""One client in so many names a version."""
MOST_DRIFT = 0.1
EXCUSED = "named a version that was not loaded"
VERDICT = {True: "holds", False: "DOES NOT HOLD"}


def main() -> int:
    """Run, print, and return 1 when one of the two did not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (10)")
    parser.add_argument("--clients", type=int, default=32, help="callers at a time, of one image each (32)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak") as directory, ExitStack() as ends:
        model = Path(directory) / "models" / "tiny"
        write_tiny(model / "1")
        flags = (f"--models_dir={model.parent}", "--enable_batching", "--max_num_load_retries=0")
        server = ends.enter_context(ServerProcess(Path(directory) / "server", *flags)).ready()
        clients = [ends.enter_context(Client(server.address)) for _ in range(options.clients)]
        with calling([partial(call, client, seed, model) for seed, client in enumerate(clients)]) as done:
            samples, swaps = publish(model, server.process.pid, options.minutes * 60)
    return report(Counter(outcome for _, _, outcome in done), samples, swaps, options.minutes)


def call(client: Client, seed: int, model: Path) -> str:
    """Ask once, and return how it ends."""
    version = newest(model) if seed % NAMING == 0 else None
    try:
        client.predict(predict(inputs={"images": images(1, seed)}, version=version))
    except grpc.RpcError as error:
        return EXCUSED if is_excused(error, version) else f"{error.code().name}: {error.details()}"
    return "OK"


def is_excused(error: grpc.RpcError, version: int | None) -> bool:
    """Tell whether a request failed as it must: it named a version that was not there."""
    missing = f"Servable not found for request: Specific(tiny, {version})"
    return version is not None and (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, missing)


def newest(model: Path) -> int:
    """Return the newest version that can be loaded; the load may still be under way."""
    return next(number for number in reversed(versions(model)) if (model / str(number) / "saved_model.pb").exists())


def versions(model: Path) -> list[int]:
    """List the versions on disk, the newest last."""
    return sorted(int(path.name) for path in model.iterdir() if path.name.isdigit())


def publish(model: Path, pid: int, seconds: float) -> tuple[list[tuple[float, float]], int]:
    """Swap and break versions for `seconds`.

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
            for old in versions(model)[:-2]:
                shutil.rmtree(model / str(old))
        if now > (breaks + 0.5) * BREAK_SECONDS:
            breaks += 1
            version += 1
            (model / str(version)).mkdir()
        samples.append((now, resident_megabytes(pid)))
        time.sleep(0.5)
    return samples, swaps


def report(outcomes: "Counter[str]", samples: list[tuple[float, float]], swaps: int, minutes: float) -> int:
    """Print, and judge."""
    failed = outcomes.total() - outcomes["OK"] - outcomes[EXCUSED]
    print(f"{outcomes.total()} requests in {minutes:g} min, {swaps} versions swapped")
    for outcome, count in outcomes.most_common():
        print(f"  {count:8} {outcome}")
    print(f"{VERDICT[failed == 0]}: {failed} requests failed that named no version, or one that was loaded")
    if minutes < 3:
        print("memory is not judged in less than three minutes")
        return int(failed > 0)
    early = statistics.mean(value for when, value in samples if 60 <= when < 120)
    late = statistics.mean(value for when, value in samples if when >= minutes * 60 - 60)
    drift = late / early - 1
    flat = abs(drift) <= MOST_DRIFT
    print(f"{VERDICT[flat]}: resident {early:.0f} MB in the second minute, {late:.0f} MB in the last: {drift:+.1%}")
    return int(failed > 0 or not flat)


if __name__ == "__main__":
    sys.exit(main())
