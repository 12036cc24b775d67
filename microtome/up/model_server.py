"""Keep the embedded model server alive: start it again when it dies, give up when it cannot start at all."""

import asyncio
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from microtome.up.errors import ModelServerFailed
from microtome.up.processes import Child, Command
from microtome.up.terminal import Terminal

GIVE_UP_AFTER = 3
FIRST_PAUSE = 0.2
LONGEST_PAUSE = 15.0
STEADY_SECONDS = 60.0
LOOK_INTERVAL = 0.05
TAIL_LINES = 12
# What TensorFlow says before it has read how much it should say; no setting reaches these lines.
TENSORFLOW_NOISE = re.compile(r"WARNING: All log messages before absl::InitializeLog\(\)|[IW]0000 00:00:")


class ModelServerKeeper:
    """Runs one command for as long as it is told to, one child at a time.

    A run counts as served once its socket has appeared, which happens when the models are loaded: a server that is
    killed while serving is always started again, one that three times in a row does not get that far is hopeless.
    """

    def __init__(
        self,
        command: Command,
        socket: Path,
        terminal: Terminal,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._command = command
        self._socket = socket
        self._terminal = terminal
        self._clock = clock
        self._child: Child | None = None

    async def run(self) -> NoReturn:
        """Start it, and again whenever it ends, until cancelled.

        Raises:
            ModelServerFailed: With its last lines, after several runs in a row that never served.
        """
        failures = 0
        pause = FIRST_PAUSE
        while True:
            begin = self._clock()
            # A killed server leaves its socket behind, and a stale socket would pass for service.
            self._socket.unlink(missing_ok=True)
            self._child = child = Child(self._command, self._relay)
            served = await self._served(child)
            code = await child.wait()
            failures = 0 if served else failures + 1
            if failures == GIVE_UP_AFTER:
                raise ModelServerFailed(
                    f"The model server ended {failures} times without having served (exit code {code}). "
                    f"Its last lines:\n\n{child.last_lines(TAIL_LINES)}"
                )
            pause = FIRST_PAUSE if self._clock() - begin > STEADY_SECONDS else pause
            self._terminal.note(f"the model server ended (exit code {code}) and is started again in {pause:.1f} s")
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    async def stop(self, grace: float, at_once: asyncio.Event) -> None:
        """Stop the present child; call this after `run` has been cancelled."""
        if self._child is not None:
            await self._child.stop(grace, at_once)

    def _relay(self, line: str) -> None:
        if not TENSORFLOW_NOISE.match(line):
            self._terminal.relay(line)

    async def _served(self, child: Child) -> bool:
        """Wait for the child's end and return whether its socket was seen."""
        served = False
        while not served and child.running:
            served = self._socket.exists()
            await child.ended_within(LOOK_INTERVAL)
        await child.wait()
        return served
