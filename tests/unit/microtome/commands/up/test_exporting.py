"""Two of them beside each other export each model once."""

import asyncio
import fcntl
import io
from pathlib import Path

import pytest

from microtome.commands.up import run
from microtome.commands.up.signals import StopRequests
from microtome.commands.up.terminal import Terminal
from tests.exported_models import REPOSITORY


async def test_the_second_waits_for_the_first_and_finds_its_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says what it waits for, and starts no export of its own."""
    missing = [["lite0"]]
    monkeypatch.setattr(run, "missing_models", lambda *_: missing[-1])
    monkeypatch.setattr(run, "_export", None)
    err = io.StringIO()
    with (tmp_path / ".exporting").open("ab") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        terminal = Terminal(io.StringIO(), err)
        second = asyncio.create_task(run.export_missing(REPOSITORY / "recipe.yaml", tmp_path, terminal, StopRequests()))
        async with asyncio.timeout(30):
            while not err.getvalue():  # noqa: ASYNC110, a text tells of no change
                await asyncio.sleep(0.01)
        assert "another microtome exports" in err.getvalue()
        missing.append([])
    async with asyncio.timeout(30):
        await second
