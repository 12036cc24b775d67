"""Entry point of ``python -m modelserver``."""

import sys

from modelserver.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
