"""The way of a request stays short: few files are entered by one POST /embed."""

import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[3]
MOST = {"miss": 28, "hit": 14}


def test_a_request_enters_few_files() -> None:
    """At most 28 of service/ and microtome/ for a miss, and 14 for a response of the response cache."""
    script = REPOSITORY / "bench" / "files_entered.py"
    told = subprocess.run([sys.executable, script, "--list"], capture_output=True, text=True, check=True).stdout
    counted = {name: int(number) for name, number in re.findall(r"(\w+): (\d+) files", told)}
    assert MOST.keys() == counted.keys()
    assert all(counted[name] <= most for name, most in MOST.items()), told
