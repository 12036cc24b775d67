"""Native chatter is withheld, our own words are not, and a crash shows everything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import os, sys
from exporter.errors import UnknownLayer
from exporter.runtime.tensorflow_ready import native_stderr_hidden
with native_stderr_hidden():
    os.write(2, b"native chatter\\n")
    sys.stderr.write("progress\\n")
    {ending}
os.write(2, b"native afterwards\\n")
sys.stderr.write("python afterwards\\n")
"""


@pytest.mark.parametrize(
    ("ending", "shown", "hidden"),
    [
        ("pass", ["progress", "native afterwards", "python afterwards"], ["native chatter"]),
        ("raise UnknownLayer('which')", ["progress", "UnknownLayer: which"], ["native chatter"]),
        ("raise KeyError('bug')", ["progress", "native chatter", "KeyError: 'bug'"], []),
    ],
    ids=["well", "user's mistake", "bug"],
)
def test_native_chatter_is_shown_only_when_something_unexpected_happens(
    repository: Path, ending: str, shown: list[str], hidden: list[str]
) -> None:
    """What C++ writes to the descriptor is kept back; what Python writes arrives, then and afterwards."""
    code = CODE.format(ending=ending)
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=False)
    for text in shown:
        assert text in done.stderr
    for text in hidden:
        assert text not in done.stderr
