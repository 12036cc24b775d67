"""Print a table; exit with 1 if something in it must not be."""

import argparse
import sys

from tests.hostile import fuzz, parsers, routes, slow

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("what", choices=("parsers", "routes", "fuzz", "slow"))
    parser.add_argument("--seconds", type=float, default=60, help="of the fuzz, and of each line of slow")
    parser.add_argument("--seed", type=int, default=1, help="of the fuzz")
    parser.add_argument("--only", default="", help="routes, or parsers, with this in their name")
    words = parser.parse_args()
    tables = {
        "parsers": lambda: parsers.table(words.only),
        "routes": lambda: routes.table(words.only),
        "slow": lambda: slow.table(min(words.seconds, 10)),
        "fuzz": lambda: fuzz.table(words.seconds, words.seed),
    }
    sys.exit(not tables[words.what]())
