"""A process of ours that answers each line of JSON with one, started once: no interpreter starts while others run."""

import json
import subprocess
import sys
from typing import Any, Self


class Worker:
    """One of the modules of bench that serve standard input.

    Args:
        words: After `python -m`.
    """

    def __init__(self, *words: str) -> None:
        command = [sys.executable, "-m", *words]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.__exit__(None, None, None)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def send(self, order: object) -> None:
        """Write a line."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        """Read an answer.

        Raises:
            EOFError: It has ended, with the reason on standard error.
        """
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise EOFError(f"Expected an answer of {self._process.args!r}. Received nothing: it has ended.")
        answer: dict[str, Any] = json.loads(line)
        return answer
