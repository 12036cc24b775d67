"""`python -m microtome` is the `microtome` command."""

import sys

from microtome.cli import main

sys.exit(main())
