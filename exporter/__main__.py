"""`python -m exporter`: the exporter's commands, which `microtome` has too."""

import sys

from exporter.cli import main

sys.exit(main())
