"""`microtome cache` counts, fills and clears one model's vectors, and touches nothing else."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import Stack
from tests.e2e.photos import EXAMPLES
from tests.e2e.processes import eventually


def cache(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    command = [sys.executable, "-m", "microtome", "cache", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_warm_stats_and_clear(stack: Stack, tmp_path: Path) -> None:
    """Photos are sent once and counted; after clearing, what is not the model's is still there."""
    known = ("--redis", stack.valkey.url, "--model", "lite0", "--model-server", stack.model_server.address)
    with stack.valkey.client() as client:
        client.flushdb()
        client.set("another program's", "value")
        client.set("mt1:" + 64 * "0" + ":digest:top", "another model's")
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    warmed = cache("warm", "--gateway", stack.gateway.url, str(EXAMPLES), str(tmp_path))
    assert warmed.returncode == 0
    assert "3 of 5 images are cached" in warmed.stdout
    assert "broken.jpg: 422: " in warmed.stderr
    assert "README.md: 422: " in warmed.stderr

    def written() -> bool:
        # A Redis that missed the gateway's budget once, as on a busy machine, is left alone for 5 s: warm again.
        return stack.valkey.keys() == 5 or cache("warm", "--gateway", stack.gateway.url, str(EXAMPLES)).returncode != 0

    eventually(written, "three vectors are written")
    assert 5 == stack.valkey.keys()
    with stack.valkey.client() as client:
        client.config_resetstat()
    assert "lite0 version 1  sha256:" in (counted := cache("stats", *known)).stdout
    assert "3 vectors" in counted.stdout
    assert "3 vectors removed" in cache("clear", *known).stdout
    assert 2 == stack.valkey.keys()
    with stack.valkey.client() as client:
        used = {name.removeprefix("cmdstat_") for name in client.info("commandstats")}
    assert {"scan", "unlink"} <= used
    # What would hold a Redis in use up, or take from it what is others'.
    assert set() == {"keys", "flushdb", "flushall", "del"} & used


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["stats", "--redis", "redis://127.0.0.1:1", "--fingerprint", 64 * "a"], "Redis does not answer"),
        (["clear", "--redis", "{redis}", "--fingerprint", "*"], "64 hexadecimal digits"),
        (["clear", "--redis", "{redis}", "--model", "nix", "--model-server", "{model_server}"], "'nix'"),
    ],
)
def test_what_cannot_be_done_is_said_without_a_traceback(stack: Stack, words: list[str], expected: str) -> None:
    """Exit code 1, and a sentence that says what was expected."""
    known = {"redis": stack.valkey.url, "model_server": stack.model_server.address}
    done = cache(*(word.format(**known) for word in words))
    assert done.returncode == 1
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
