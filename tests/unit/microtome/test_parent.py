"""A module that follows a parent does not outlive it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

PARENT = """
import os, subprocess, sys
child = subprocess.Popen(
    [sys.executable, "-m", "microtome.parent", str(os.getpid()), "leashed", "word"], start_new_session=True
)
child.wait()
"""

LEASHED = """
import os, pathlib, sys, time
pathlib.Path("words").write_text(" ".join(sys.argv[1:]))
os.rename("words", "words.done")
pathlib.Path("pid.part").write_text(str(os.getpid()))
os.rename("pid.part", "pid")
time.sleep(600)
"""


def test_kill_9_of_the_parent_ends_the_child(tmp_path: Path) -> None:
    """The exporter stops when `up` is killed in a way that it cannot notice."""
    (tmp_path / "leashed.py").write_text(LEASHED)
    repository = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": f"{repository}{os.pathsep}{tmp_path}"}
    parent = subprocess.Popen([sys.executable, "-c", PARENT], cwd=tmp_path, env=environment)
    try:
        _until((tmp_path / "pid").exists)
        child = int((tmp_path / "pid").read_text())
        assert (tmp_path / "words.done").read_text() == "word"
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    _until(lambda: not _alive(child))


def _alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and ") Z " not in stat.read_text()


def _until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
