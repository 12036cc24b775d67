"""A process of ours that answers each line of JSON with one, started once: no interpreter starts while others run."""

import json
import subprocess
import sys
from typing import Any, Self


class Worker:
    """One of the modules of bench that serve standard input.

    Args:
        words: After `python -m`.
        quiet: Whether its standard error is dropped, such as TensorFlow's messages.
    """

    def __init__(self, *words: str, quiet: bool = False) -> None:
        command, stderr = [sys.executable, "-m", *words], subprocess.DEVNULL if quiet else None
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True
        )

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
            EOFError: It has ended; its standard error says why.
        """
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise EOFError(f"Expected an answer of {self._process.args!r}. Received nothing: it has ended.")
        answer: dict[str, Any] = json.loads(line)
        return answer
