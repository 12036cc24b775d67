"""A child process of `microtome up`: started, logged, awaited, stopped.

A child runs in a session of its own, so that Ctrl-C reaches only `up`, which then stops the children in order.
"""

import asyncio
import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO

KEPT_LINES = 50
STDERR = 2


@dataclass(frozen=True, slots=True)
class Command:
    """A program to run: its name in messages, its arguments, and additions to its environment."""

    name: str
    words: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


class Child:
    """One run of a command; its output goes line by line to `relay`, or untouched to our standard error."""

    def __init__(self, command: Command, relay: Callable[[str], None] | None, out: IO[bytes] | None = None) -> None:
        """Start the program. Call this on the event loop's thread.

        Args:
            command: What to run.
            relay: Called from another thread with every line; None leaves the terminal to the child, progress bars
                and all.
            out: Where standard output goes if `relay` is None; to the terminal's standard error if None.

        Raises:
            OSError: The program cannot be run.
        """
        self._tail: deque[str] = deque(maxlen=KEPT_LINES)
        # Not asyncio's subprocess: on Python 3.11 its wait() lasts until every grandchild has closed the pipe.
        self._process = subprocess.Popen(  # noqa: S603  (our own words)
            command.words,
            env={**os.environ, **command.environment},
            stdin=subprocess.DEVNULL,
            stdout=(out or STDERR) if relay is None else subprocess.PIPE,
            stderr=STDERR if relay is None else subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        self._listener = threading.Thread(target=self._listen, args=(self._process.stdout, relay), daemon=True)
        self._listener.start()
        self._exit = asyncio.ensure_future(asyncio.to_thread(self._process.wait))

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return not self._exit.done()

    async def wait(self) -> int:
        """Return the exit code as in a shell: 128 + n after signal n."""
        code = await asyncio.shield(self._exit)
        return code if code >= 0 else 128 - code

    async def ended_within(self, seconds: float) -> bool:
        """Wait for the end, at most `seconds`; return whether it has ended."""
        await asyncio.wait({self._exit}, timeout=seconds)
        return not self.running

    async def stop(self, grace: float, forced: asyncio.Event) -> None:
        """Send SIGTERM; kill it and its children after `grace` seconds or when `forced` is set."""
        if self.running:
            self._process.send_signal(signal.SIGTERM)
            no_wait = asyncio.ensure_future(forced.wait())
            await asyncio.wait({self._exit, no_wait}, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
            no_wait.cancel()
        # The child leads its process group, so this kills its children too.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self.wait()
        self._drain()

    def last_lines(self, count: int) -> str:
        """Return the end of its output once it has ended; all output has been relayed by then."""
        self._drain()
        return "\n".join(list(self._tail)[-count:])

    def _drain(self) -> None:
        """Wait until its last lines have been relayed."""
        # With a timeout, since a grandchild may keep the pipe open.
        self._listener.join(timeout=1.0)

    def _listen(self, output: IO[str] | None, relay: Callable[[str], None] | None) -> None:
        if output is None or relay is None:
            return
        with output:
            for line in output:
                self._tail.append(line.rstrip("\n"))
                relay(line.rstrip("\n"))
