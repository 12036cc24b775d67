"""A long mixed run under faults, every vector compared with its reference: tests/e2e/mixed_run.py with more requests.

    python -m bench.mixed_run [--requests 20000]

Prints its progress, then how many requests were sent, failed and wrong; ends with 1 unless all were right.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.e2e.mixed_run import run, running
from tests.e2e.mixture import Mixture
from tests.exported_models import REPOSITORY, export

TELL_SECONDS = 5.0


def teller() -> Callable[[Mixture], None]:
    """Return a function that prints progress and time left every few seconds."""
    begin = time.monotonic()
    told = 0

    def tell(mixture: Mixture) -> None:
        nonlocal told
        passed, sent = time.monotonic() - begin, mixture.sent()
        if sent and int(passed / TELL_SECONDS) > told:
            told = int(passed / TELL_SECONDS)
            left = (mixture.requests - sent) * passed / sent
            print(f"{sent} of {mixture.requests}, {sent / passed:.0f}/s, {left:.0f} s left: {mixture}", flush=True)

    return tell


def main() -> int:
    """Run it by hand."""
    parser = argparse.ArgumentParser(prog="python -m bench.mixed_run", description="Every vector of a mixed run.")
    parser.add_argument("--requests", type=int, default=20_000, help="how many (20000)")
    requests = parser.parse_args().requests
    with tempfile.TemporaryDirectory(prefix="microtome-e2e-", ignore_cleanup_errors=True) as place:
        print("exporting the models ...", flush=True)
        # Answers of one export are compared with each other, so comparing them with Keras is not needed.
        exported = export(REPOSITORY / "recipe.yaml", Path(place) / "lite0", "--no-verify")
        if exported.returncode:
            print(exported.stderr, file=sys.stderr)
            return 1
        with running(Path(place), Path(place) / "lite0") as stack:
            begin = time.monotonic()
            mixture = run(stack, requests, teller())
    print("\n".join([*mixture.failed[:10], *mixture.wrong[:10]]))
    print(f"mixed run: {mixture} in {time.monotonic() - begin:.0f} s")
    return int(bool(mixture.failed or mixture.wrong or mixture.sent() != requests))


if __name__ == "__main__":
    sys.exit(main())
