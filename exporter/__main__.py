"""`python -m exporter`: the exporter's commands, as `microtome` has them too."""

import sys

from exporter.cli import main

sys.exit(main())
