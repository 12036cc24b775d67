"""`python -m microtome` is the `microtome` command."""

import sys

from microtome.commands.cli import main

sys.exit(main())
