"""The parent's end of the load generator."""

import json
import subprocess
import sys
from dataclasses import asdict
from types import TracebackType
from typing import Self

from bench.load.plan import Load, Outcome


class LoadFailed(Exception):
    """The load was not answered, or the load generator ended, with the reason on standard error."""


class LoadGenerator:
    """A process that is started once, so that no interpreter starts during a measurement."""

    def __init__(self) -> None:
        words = [sys.executable, "-m", "bench.load"]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._process.kill()
        self._process.__exit__(None, None, None)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def put(self, load: Load) -> Outcome:
        """Put a load on and wait for its outcome.

        Raises:
            LoadFailed: The server could not be reached or left requests unanswered, or the generator has ended.
        """
        if self._process.stdin is None or self._process.stdout is None:
            raise LoadFailed("The load generator has no pipes.")
        self._process.stdin.write(json.dumps(asdict(load)) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise LoadFailed(f"Expected an outcome of {load}, received nothing.")
        outcome = json.loads(line)
        if "error" in outcome:
            raise LoadFailed(f"Expected answers on port {load.port}, received: {outcome['error']}")
        return Outcome(**outcome)
