"""The code in the client's guides runs as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

from tests.e2e.conftest import Stack
from tests.e2e.photos import EXAMPLES

GUIDES = Path(__file__).parents[2] / "docs" / "guides"


def test_the_image_search_finds_the_photo_itself_first(stack: Stack, tmp_path: Path) -> None:
    """Twenty lines, as the page promises, and the likeness of a photo to itself is 1."""
    code = re.search(r"```python\n(.*?)```", (GUIDES / "image_search.md").read_text(encoding="utf-8"), re.DOTALL)
    assert code is not None
    assert 20 >= len(code[1].splitlines())
    script = tmp_path / "search.py"
    script.write_text(code[1], encoding="utf-8")
    command = [sys.executable, str(script), stack.gateway.url, str(EXAMPLES), str(EXAMPLES / "cat.jpg")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert 0 == run.returncode, run.stderr
    lines = run.stdout.splitlines()
    assert f"1.000  {EXAMPLES / 'cat.jpg'}" == lines[0]
    assert 3 == len(lines)
