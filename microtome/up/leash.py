"""Run a Python module that must not outlive `microtome up`: `python -m microtome.up.leash PARENT MODULE WORD...`.

The gateway and the model server have a switch of their own for this; the exporter, which people also run by hand and
in the background, has not.
"""

import runpy
import sys

from microtome.parent import follow_parent


def main() -> None:
    """Watch over the parent from a thread and run the module in this one.

    SIGTERM ends the exporter at once: it publishes by renaming, so nothing half done is left.
    """
    parent = int(sys.argv[1])
    sys.argv = sys.argv[2:]
    follow_parent(parent)
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
