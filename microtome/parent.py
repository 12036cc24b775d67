"""End this process when its parent ends, so that a killed parent leaves no process behind.

`python -m microtome.parent PARENT MODULE WORD...` runs a module that follows a parent: the gateway, the exporter.
"""

import os
import runpy
import signal
import sys
import threading
import time

POLL_SECONDS = 0.5


def follow_parent(parent: int | None = None) -> None:
    """Send this process SIGTERM once its parent is gone; the process decides what the signal does.

    The parent's id is polled twice a second, which works on every system. Linux could send the signal by itself
    (PR_SET_PDEATHSIG), but does so when the parent's *thread* ends.

    Args:
        parent: the id of the process to follow; by default the parent at the time of the call, which may be another
            one if the parent has ended already.
    """
    followed = os.getppid() if parent is None else parent
    threading.Thread(target=_watch, args=(followed,), name="follow parent", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Follow a parent from a thread and run a module in this one.

    SIGTERM ends the exporter immediately: it publishes by renaming, so no partial version is left.
    """
    parent = int(sys.argv[1])
    sys.argv = sys.argv[2:]
    follow_parent(parent)
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
