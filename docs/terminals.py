"""Terminals in which pages are run: shells that take commands one by one, and servers that they start.

Imported by docs/run.py, which lies beside it.
"""

import os
import re
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import textwrap
import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SERVES = re.compile(r"(?:\w+=\S*\s+)*(?:make run|(?:\S*/)?microtome up|(?:\S*/)?python -m (?:service|modelserver))\b")
"""Commands that serve until Ctrl-C."""
PATIENCE = 600.0
"""Seconds that a command, or a server that starts, may take."""


class Failed(Exception):
    """A block did not do what the page says: the line, the command, and what came."""

    def __init__(self, line: int, command: str, output: str) -> None:
        super().__init__(f"{line}: {command}\n{textwrap.indent(output.strip(), '    ')}")


class Terminal:
    """A shell that keeps its directory and variables from command to command."""

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        self._files = Path(tempfile.mkdtemp(prefix="terminal-"))
        pipe = subprocess.PIPE
        words = ["bash", "--noprofile", "--norc"]
        # Its standard error tells of jobs that end.
        self._shell = subprocess.Popen(  # noqa: S603 - our own words
            words, cwd=directory, env=environment, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
        )
        self._say("set -m -o pipefail")

    def run(self, line: int, command: str) -> str:
        """Run a command to its end and return what it prints.

        Raises:
            Failed: Its exit code is not 0, or it takes too long.
        """
        script, printed, told = (self._files / name for name in ("command", "printed", "told"))
        script.write_text(f"{command}\n", encoding="utf-8")
        self._say(f". {script} > {printed} 2> {told} < /dev/null; echo $?")
        code = self._answer()
        output = printed.read_text(encoding="utf-8", errors="replace")
        if code != "0":
            why = f"exit code {code}" if code else f"no end after {PATIENCE:.0f} s"
            raise Failed(line, command, f"{output}{told.read_text(encoding='utf-8', errors='replace')}\n{why}")
        return output

    def start(self, line: int, command: str) -> "Server":
        """Start a command that serves, in a process group of its own, and wait until it does."""
        log = self._files / f"server-{line}.log"
        self._say(f"{{ {command.rstrip('&').rstrip()}\n}} > {log} 2>&1 < /dev/null & echo $!")
        server = Server(int(self._answer()), port_of(command), log, http="modelserver" not in command)
        try:
            server.await_ready(line, command)
        except Failed:
            server.stop()
            raise
        return server

    def close(self) -> None:
        """End the shell and what it has left running."""
        self._say("kill -- $(jobs -p | sed s/^/-/) 2> /dev/null; exit")
        self._shell.communicate()
        shutil.rmtree(self._files)

    def _say(self, text: str) -> None:
        if self._shell.stdin:
            self._shell.stdin.write(text + "\n")
            self._shell.stdin.flush()

    def _answer(self) -> str:
        answers = self._shell.stdout
        return answers.readline().strip() if answers and select.select([answers], [], [], PATIENCE)[0] else ""


def port_of(command: str) -> int:
    """Return the port that a command serves on."""
    said = re.search(r"--port[= ](\d+)|MICROTOME_PORT=(\d+)", command)
    if said:
        return int(said[1] or said[2])
    return 8500 if "modelserver" in command else 8000


@dataclass(slots=True)
class Server:
    """A process group that serves on a port."""

    group: int
    port: int
    log: Path
    http: bool

    def await_ready(self, line: int, command: str) -> None:
        """Return once it answers.

        Raises:
            Failed: It ends before, or takes too long.
        """
        end = time.monotonic() + PATIENCE
        while not self._ready():
            if not self._lives() or time.monotonic() > end:
                raise Failed(line, command, self.log.read_text(encoding="utf-8", errors="replace"))
            time.sleep(0.1)

    def stop(self) -> None:
        """Stop it as Ctrl-C does, which goes to the whole group; and for good when that does not help."""
        for sent, seconds in ((signal.SIGINT, 30), (signal.SIGKILL, 10)):
            with suppress(ProcessLookupError):
                os.killpg(self.group, sent)
            end = time.monotonic() + seconds
            while self._lives() and time.monotonic() < end:
                time.sleep(0.05)

    def _ready(self) -> bool:
        if self.http:
            with suppress(OSError), urllib.request.urlopen(f"http://localhost:{self.port}/readyz", timeout=5):
                return True
            return False
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def _lives(self) -> bool:
        with suppress(ProcessLookupError):
            os.kill(self.group, 0)
            return True
        return False
