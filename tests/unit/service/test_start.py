"""What the process does at its start, beside what the application does."""

import subprocess
import sys

START = """
import asyncio, gc, uvicorn
from service.__main__ import _Server

async def application(scope, receive, send):
    raise AssertionError("nobody asks")

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


def test_what_the_start_has_made_is_kept_from_the_collector() -> None:
    """A full collection would hold everybody up for as long as Redis has time to answer."""
    started = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True, check=True)
    assert started.stdout.split() == ["0", "True"]
