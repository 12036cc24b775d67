"""The supervisor over real processes: readiness, restarts, giving up, stopping in order."""

import asyncio
import io
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from microtome.commands.up import addresses, supervisor
from microtome.commands.up.errors import GatewayEnded, ModelServerFailed
from microtome.commands.up.plan import Plan
from microtome.commands.up.signals import StopRequests
from microtome.commands.up.supervisor import supervise
from microtome.commands.up.terminal import Terminal
from tests.unit.microtome.commands.up import stand_ins

DEADLINE = 20.0


@dataclass
class Session:
    """A supervisor at work, seen from the user's chair."""

    directory: Path
    out: io.StringIO
    err: io.StringIO
    stop: StopRequests
    task: asyncio.Task[None]

    def journal(self) -> list[str]:
        """What the stand-ins wrote down, in order."""
        path = self.directory / "journal"
        return path.read_text().splitlines() if path.exists() else []

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for a condition, failing early when the supervisor has failed."""
        async with asyncio.timeout(DEADLINE):
            while not condition():
                if self.task.done():
                    await self.task
                await asyncio.sleep(0.01)

    async def until_opened(self, times: int) -> None:
        """Wait until the model server has opened its socket so many times."""
        await self.until(lambda: self.journal().count("model server open") == times)

    async def until_ready(self) -> None:
        """Let the gateway be ready and wait until the user has been told."""
        (self.directory / "ready").touch()
        await self.until(self.out.getvalue)


@asynccontextmanager
async def supervised(directory: Path, plan: Plan) -> AsyncIterator[Session]:
    """Run the supervisor for the length of the block, and stop it at its end whatever happened."""
    out, err, stop = io.StringIO(), io.StringIO(), StopRequests()
    task = asyncio.create_task(supervise(plan, Terminal(out, err), stop))
    try:
        yield Session(directory, out, err, stop, task)
    finally:
        stop.request()
        stop.request()
        await asyncio.gather(task, return_exceptions=True)


def pid_of(program: str, directory: Path) -> int:
    """Find the process that runs this stand-in for this test."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if program.encode() in words and any(word.startswith(bytes(directory)) for word in words):
                return int(entry.name)
    raise AssertionError("no such process")


async def settled(done: Awaitable[None]) -> None:
    """Wait for the supervisor's end."""
    async with asyncio.timeout(DEADLINE):
        await done


async def test_says_what_to_try_once_the_gateway_is_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user is told what is being waited for, in the gateway's own words, and what to try only when it works."""
    monkeypatch.setattr(supervisor, "PATIENCE", 0.2)
    port = addresses.claim("127.0.0.1", 0)
    async with supervised(tmp_path, stand_ins.plan(tmp_path, port)) as session:
        await session.until(lambda: "(lite0: told to wait)" in session.err.getvalue())
        assert session.out.getvalue() == ""
        await session.until_ready()
        assert f"http://127.0.0.1:{port}/docs" in session.out.getvalue()


async def test_a_stop_ends_the_gateway_before_the_model_server(tmp_path: Path) -> None:
    """The gateway needs the model server to finish what is in flight, so it goes first."""
    async with supervised(tmp_path, stand_ins.plan(tmp_path, addresses.claim("127.0.0.1", 0))) as session:
        await session.until_ready()
        session.stop.request()
        await settled(session.task)
        assert session.journal() == ["model server open", "gateway stopped", "model server stopped"]


async def test_a_killed_model_server_is_started_again(tmp_path: Path) -> None:
    """A model server that dies while serving costs a pause, not the session, however often it happens."""
    async with supervised(tmp_path, stand_ins.plan(tmp_path, addresses.claim("127.0.0.1", 0))) as session:
        await session.until_ready()
        for deaths in range(1, 4):
            os.kill(pid_of(stand_ins.MODEL_SERVER, tmp_path), signal.SIGKILL)
            await session.until_opened(deaths + 1)
        assert session.err.getvalue().count("exit code 137) and is started again") == 3
        await session.until(lambda: "the model server serves again" in session.err.getvalue())


async def test_a_model_server_that_cannot_start_ends_the_session_with_its_last_lines(tmp_path: Path) -> None:
    """Starting it for ever would hide the reason; the reason is shown instead."""
    hopeless = stand_ins.python("model server", stand_ins.HOPELESS)
    async with supervised(tmp_path, stand_ins.plan(tmp_path, addresses.claim("127.0.0.1", 0), hopeless)) as session:
        with pytest.raises(ModelServerFailed, match=r"(?s)ended 3 times .*exit code 3.*no such model: nope"):
            await settled(session.task)
        assert session.journal() == ["gateway stopped"]


async def test_a_gateway_that_dies_ends_the_session_with_its_exit_code(tmp_path: Path) -> None:
    """Nothing is left running behind a dead gateway."""
    async with supervised(tmp_path, stand_ins.plan(tmp_path, addresses.claim("127.0.0.1", 0))) as session:
        await session.until_ready()
        os.kill(pid_of(stand_ins.GATEWAY, tmp_path), signal.SIGKILL)
        with pytest.raises(GatewayEnded, match="ended by itself") as ending:
            await settled(session.task)
        assert ending.value.exit_code == 137
        assert session.journal() == ["model server open", "model server stopped"]


async def test_the_second_request_does_not_wait(tmp_path: Path) -> None:
    """A child that does not listen is killed, and so is what it started, as soon as the user asks twice."""
    stubborn = stand_ins.python("model server", stand_ins.STUBBORN, tmp_path / "m.sock")
    async with supervised(tmp_path, stand_ins.plan(tmp_path, addresses.claim("127.0.0.1", 0), stubborn)) as session:
        # By then both have installed their signal handlers.
        await session.until(lambda: "waiting for the gateway" in session.err.getvalue() and grandchild(session))
        orphan = grandchild(session)
        assert orphan is not None
        session.stop.request()
        await session.until(lambda: "gateway stopped" in session.journal())
        assert not session.task.done()
        session.stop.request()
        await settled(session.task)
        await session.until(lambda: not alive(orphan))


def grandchild(session: Session) -> int | None:
    """The process id that the stubborn stand-in printed."""
    return next((int(line) for line in session.err.getvalue().splitlines() if line.isdecimal()), None)


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie that is not reaped does not."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


# What a process does with signals is tried on a process of its own: a signal ends the one that does not handle it.
SIGNALLED = """
import asyncio, signal
from microtome.commands.up.signals import listening

# A shell's job in the background inherits that SIGINT is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

async def main():
    with listening() as stop:
        print("listening", flush=True)
        await stop.requested.wait()
        print("requested", stop.forced.is_set(), flush=True)
        await stop.forced.wait()
        print("forced", flush=True)

asyncio.run(main())
"""


async def test_signals_become_requests() -> None:
    """Ctrl-C and SIGTERM both ask; the second of either says at once."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", SIGNALLED, stdout=asyncio.subprocess.PIPE)
    assert process.stdout
    try:
        async with asyncio.timeout(DEADLINE):
            assert await process.stdout.readline() == b"listening\n"
            process.send_signal(signal.SIGINT)
            assert await process.stdout.readline() == b"requested False\n"
            process.send_signal(signal.SIGTERM)
            assert await process.stdout.readline() == b"forced\n"
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
