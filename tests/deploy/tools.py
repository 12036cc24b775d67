"""Programs that came with requirements/deploy.txt: beside this Python, and nowhere else."""

import sys
from pathlib import Path


def tool(name: str) -> str:
    """Return the path of a program.

    Raises:
        AssertionError: It is not there.
    """
    path = Path(sys.executable).parent / name
    assert path.exists(), f"{name} is not installed: make test-deploy does so"
    return str(path)
