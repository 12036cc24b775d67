"""Several worker processes behind one port; a parent process starts the workers and restarts them.

The workers inherit the listening socket: a connection waits for the first free worker, and none is lost when a worker
dies. Their metrics are files in a shared directory, which each worker can add up. A worker that dies is restarted; one
that cannot start stops all.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from tempfile import TemporaryDirectory

from prometheus_client.multiprocess import mark_process_dead

from service.settings import Settings
from service.telemetry.logs import Logger

_COULD_NOT_START = frozenset({1, 2})
_POLL_SECONDS = 0.1
_GRACE_SECONDS = 10
"""In addition to draining, before a worker that does not stop is killed."""


def supervise(settings: Settings, log: Logger, listener: socket.socket) -> int:
    """Serve with as many workers as the settings say until SIGTERM or SIGINT, and return the exit code."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    with TemporaryDirectory(prefix="microtome-metrics-") as shared:
        crew = _Workers(listener, shared, settings.workers)
        code = crew.watch(stopping, log)
        return crew.stop(settings.drain + _GRACE_SECONDS) or code


class _Workers:
    """The worker processes by number."""

    def __init__(self, listener: socket.socket, shared: str, workers: int) -> None:
        self._listener = listener
        self._shared = shared
        self._workers = [self._start() for _ in range(workers)]

    def watch(self, stopping: threading.Event, log: Logger) -> int:
        """Restart workers that die until `stopping` is set; return the exit code of one that cannot start, else 0."""
        began = time.monotonic()
        while not stopping.wait(_POLL_SECONDS):
            for number, worker in enumerate(self._workers):
                code = worker.poll()
                if code is None:
                    continue
                self._forget_gauges(worker)
                if code in _COULD_NOT_START:
                    return code
                log.warning("worker_died", worker=number, code=code)
                # A worker that dies immediately must not be restarted in a busy loop.
                stopping.wait(max(0.0, 1.0 - (time.monotonic() - began)))
                began = time.monotonic()
                self._workers[number] = self._start()
        return 0

    def stop(self, seconds: float) -> int:
        """Let the workers drain, and return 0 if all ended cleanly."""
        for worker in self._workers:
            if worker.poll() is None:
                worker.terminate()
        end = time.monotonic() + seconds
        codes = [_ended(worker, end - time.monotonic()) for worker in self._workers]
        # SIGTERM before the handlers are set is a clean end, too.
        return 0 if set(codes) <= {0, -signal.SIGTERM} else 1

    def _start(self) -> "subprocess.Popen[bytes]":
        number = self._listener.fileno()
        return subprocess.Popen(  # noqa: S603, this program
            [*_command(), f"--listen-fd={number}"],
            pass_fds=[number],
            env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": self._shared},
        )

    def _forget_gauges(self, worker: "subprocess.Popen[bytes]") -> None:
        mark_process_dead(worker.pid, self._shared)  # type: ignore[no-untyped-call]


def _command() -> Sequence[str]:
    return [sys.executable, "-m", "service"]


def _ended(worker: "subprocess.Popen[bytes]", seconds: float) -> int:
    try:
        return worker.wait(max(0.0, seconds))
    except subprocess.TimeoutExpired:
        worker.kill()
        return worker.wait()
