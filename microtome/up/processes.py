"""A child process of `microtome up`: started, heard, waited for, stopped.

A child leads a session of its own, so that Ctrl-C reaches `up` alone, which then stops the children in order.
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
    """A program to run: its name for people, its words, and what its environment has beside ours."""

    name: str
    words: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


class Child:
    """One run of a command; its output goes line by line to `relay`, or untouched to our standard error."""

    def __init__(self, command: Command, relay: Callable[[str], None] | None) -> None:
        """Start the program. Call this on the event loop's thread.

        Args:
            command: What to run.
            relay: Called from another thread with every line; None leaves the terminal to the child, progress bars
                and all.

        Raises:
            OSError: When the program cannot be run.
        """
        self.command = command
        self._tail: deque[str] = deque(maxlen=KEPT_LINES)
        # Not asyncio's own subprocess: on Python 3.11 its wait() lasts until every grandchild has closed the pipe.
        self._process = subprocess.Popen(  # noqa: S603  (our own words)
            command.words,
            env={**os.environ, **command.environment},
            stdin=subprocess.DEVNULL,
            stdout=STDERR if relay is None else subprocess.PIPE,
            stderr=STDERR if relay is None else subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        self._listener = threading.Thread(target=self._listen, args=(self._process.stdout, relay), daemon=True)
        self._listener.start()
        self._exit = asyncio.ensure_future(asyncio.to_thread(self._process.wait))

    @property
    def pid(self) -> int:
        """The process id, which is also that of its group."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return not self._exit.done()

    async def wait(self) -> int:
        """Return the exit code as a shell tells it: 128 + n for a death by signal n."""
        code = await asyncio.shield(self._exit)
        return code if code >= 0 else 128 - code

    async def ended_within(self, seconds: float) -> bool:
        """Wait for the end, at most so long."""
        await asyncio.wait({self._exit}, timeout=seconds)
        return not self.running

    async def stop(self, grace: float, at_once: asyncio.Event) -> None:
        """Ask it to finish; kill it, and whatever it started, after `grace` seconds or when `at_once` is set."""
        if self.running:
            self._process.send_signal(signal.SIGTERM)
            impatience = asyncio.ensure_future(at_once.wait())
            await asyncio.wait({self._exit, impatience}, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
            impatience.cancel()
        self._kill_group()
        await self.wait()
        self._hear_out()

    def last_lines(self, count: int) -> str:
        """Return the end of its output, once it has ended; all of it has been relayed by then."""
        self._hear_out()
        return "\n".join(list(self._tail)[-count:])

    def _hear_out(self) -> None:
        """Let its last words be out before ours."""
        # A grandchild may hold the pipe open for ever, hence the limit.
        self._listener.join(timeout=1.0)

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def _listen(self, output: IO[str] | None, relay: Callable[[str], None] | None) -> None:
        if output is None or relay is None:
            return
        with output:
            for line in output:
                self._tail.append(line.rstrip("\n"))
                relay(line.rstrip("\n"))
