"""What the process does at its start, beside what the application does."""

import os
import subprocess
import sys

import pytest

START = """
import asyncio, gc, uvicorn
from service.__main__ import _Server

async def application(scope, receive, send):
    raise AssertionError("it is not asked")

async def main():
    config = uvicorn.Config(application, port=0, log_level="error", lifespan="off")
    config.load()
    server = _Server(config, asyncio.Event())
    server.lifespan = config.lifespan_class(config)
    before = gc.get_freeze_count()
    await server.startup()
    print(before, gc.get_freeze_count() > 10_000)
    await server.shutdown()

asyncio.run(main())
"""


@pytest.mark.parametrize(("words", "said"), [("--port 1", "--port"), ("--workers none", "MICROTOME_WORKERS")])
def test_a_word_that_there_is_not_is_told(words: str, said: str) -> None:
    """It would otherwise be ignored in silence."""
    started = subprocess.run(
        [sys.executable, "-m", "service", *words.split()], capture_output=True, text=True, check=False
    )
    assert 2 == started.returncode
    assert said in started.stderr
    assert "Traceback" not in started.stderr


def test_a_removed_setting_is_one_line_of_the_log() -> None:
    """And the gateway goes on: here, until it cannot bind to its address."""
    needed = {"MODEL_SERVER": "localhost:1", "MODELS": "a", "ALLOW_ANONYMOUS": "true", "HOST": "192.0.2.1"}
    environment = {f"MICROTOME_{name}": value for name, value in {**needed, "URL_TIMEOUT": "1"}.items()}
    started = subprocess.run(
        [sys.executable, "-m", "service"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert "cannot assign" in started.stderr
    assert 1 == started.stderr.count("MICROTOME_URL_TIMEOUT is no longer a setting")
    assert "listening" in started.stderr


def test_what_the_start_has_made_is_kept_from_the_collector() -> None:
    """A full collection would hold all up for as long as Redis has time to answer."""
    started = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True, check=True)
    assert started.stdout.split() == ["0", "True"]
