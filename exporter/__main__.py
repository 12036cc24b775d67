"""`python -m exporter`: the same as `microtome export` and `microtome layers`."""

import sys

from exporter.cli import main

sys.exit(main())
