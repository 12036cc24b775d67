"""`python -m bench`: measure the ratios that decide, print a table, write the result. Always exits with 0."""

import argparse
import time
import traceback
from collections.abc import Callable, Mapping

from bench.comparison import Comparison
from bench.corpus import make_corpus
from bench.profiling import profile
from bench.ratios import bulk, export, hits, latency, misses, peers, start, throughput
from bench.ratios.effort import FULL, QUICK, Effort
from bench.results import Result, print_table, save
from bench.stack import Stack, running_stack

MEASUREMENTS: Mapping[str, Callable[[Stack, Effort], list[Comparison]]] = {
    "hits": hits.measure,
    "misses": misses.measure,
    "throughput": throughput.measure,
    "latency": latency.measure,
    "export": export.measure,
    "start": start.measure,
    "bulk": bulk.measure,
    "peers": peers.measure,
}
FULL_ONLY = {"peers"}


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure the ratios that decide.")
    parser.add_argument("--full", action="store_true", help="more and longer rounds (20 minutes)")
    parser.add_argument("--only", nargs="*", choices=MEASUREMENTS, help="some of them")
    parser.add_argument("--profile", action="store_true", help="draw flame graphs into bench/out/ instead")
    options = parser.parse_args()
    default = [name for name in MEASUREMENTS if options.full or name not in FULL_ONLY]
    with running_stack(make_corpus()) as stack:
        if options.profile:
            profile(stack)
            return
        result = measure(stack, FULL if options.full else QUICK, options.only or default)
    print_table(result)
    print(f"\nwritten to {save(result)}")


def measure(stack: Stack, effort: Effort, names: list[str]) -> Result:
    """Run measurements; one that fails is told and does not stop the others."""
    result = Result.begin(stack.corpus, effort)
    for name in names:
        begin = time.monotonic()
        print(f"{name} … ", end="", flush=True)
        try:
            result.comparisons += MEASUREMENTS[name](stack, effort)
        except Exception:  # noqa: BLE001, the others are worth having
            traceback.print_exc()
            result.failed.append(name)
        print(f"{time.monotonic() - begin:.0f} s")
    return result


if __name__ == "__main__":
    main()
