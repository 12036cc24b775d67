"""A real browser, where one is installed: what a page looks like once its scripts have run."""

import asyncio
import shutil
import tempfile
from asyncio.subprocess import DEVNULL, PIPE

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> str:
    """Return the path of an installed Chromium; skips where there is none."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip(f"needs a browser: none of {', '.join(_NAMES)} is installed")
    return found


async def page_of(url: str) -> str:
    """Return the HTML of a page after its scripts and requests have ended; skips where there is no Chromium."""
    browser = chromium()
    with tempfile.TemporaryDirectory(prefix="microtome-browser-", ignore_cleanup_errors=True) as profile:
        words = ("--headless", "--no-sandbox", "--disable-gpu", "--no-proxy-server", f"--user-data-dir={profile}")
        # Virtual time stands still while a request is under way.
        running = await asyncio.create_subprocess_exec(
            browser, *words, "--virtual-time-budget=10000", "--dump-dom", url, stdout=PIPE, stderr=DEVNULL
        )
        try:
            out, _ = await asyncio.wait_for(running.communicate(), 60)
        finally:
            if running.returncode is None:
                running.kill()
    return out.decode()
