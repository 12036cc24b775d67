"""End this process when the one that started it is gone, so that nothing is left behind by one that was killed."""

import os
import signal
import threading
import time

POLL_SECONDS = 0.5


def follow_parent(parent: int | None = None) -> None:
    """Send this process SIGTERM once its parent is gone; what the signal does is the process's own affair.

    A look at the parent's id twice a second works on every system. Linux could send the signal by itself
    (PR_SET_PDEATHSIG), but does so when the parent's *thread* ends.

    Args:
        parent: the process to follow, when it is known better than by asking now: it may be gone already.
    """
    followed = os.getppid() if parent is None else parent
    threading.Thread(target=_watch, args=(followed,), name="follow parent", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
