"""Several worker processes behind one port: one opens the port, starts the others, and watches over them.

The workers inherit the listening socket, so that a connection waits for whoever is free and none is lost when a worker
goes. Their metrics are files in a directory of their own, which each of them can add up. What dies is started again;
what cannot start stops all.
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
_LOOK_SECONDS = 0.1
_GRACE_SECONDS = 10
"""Beyond the time for draining, before a worker that does not stop is killed."""


def supervise(settings: Settings, log: Logger) -> int:
    """Serve with as many workers as the settings say until SIGTERM or SIGINT, and return the exit code."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with (
        socket.create_server((settings.host, settings.port), family=family, backlog=2048) as listener,
        TemporaryDirectory(prefix="microtome-metrics-") as shared,
    ):
        crew = _Crew(listener, shared, settings.workers)
        code = crew.watch(stopping, log)
        return crew.stop(settings.drain + _GRACE_SECONDS) or code


class _Crew:
    """The workers by number."""

    def __init__(self, listener: socket.socket, shared: str, workers: int) -> None:
        self._listener = listener
        self._shared = shared
        self._workers = [self._start() for _ in range(workers)]

    def watch(self, stopping: threading.Event, log: Logger) -> int:
        """Start again what dies until told to stop; return a worker's exit code when it could not start, else 0."""
        began = time.monotonic()
        while not stopping.wait(_LOOK_SECONDS):
            for number, worker in enumerate(self._workers):
                code = worker.poll()
                if code is None:
                    continue
                self._bury(worker)
                if code in _COULD_NOT_START:
                    return code
                log.warning("worker_died", worker=number, code=code)
                # A worker that dies at once is not started again in a busy loop.
                stopping.wait(max(0.0, 1.0 - (time.monotonic() - began)))
                began = time.monotonic()
                self._workers[number] = self._start()
        return 0

    def stop(self, seconds: float) -> int:
        """Let the workers drain, and return 0 when all of them ended well."""
        for worker in self._workers:
            if worker.poll() is None:
                worker.terminate()
        end = time.monotonic() + seconds
        codes = [_ended(worker, end - time.monotonic()) for worker in self._workers]
        # One that was told to stop before it could listen to signals has lost nothing either.
        return 0 if set(codes) <= {0, -signal.SIGTERM} else 1

    def _start(self) -> "subprocess.Popen[bytes]":
        number = self._listener.fileno()
        return subprocess.Popen(  # noqa: S603, ourselves
            [*_ourselves(), f"--listen-fd={number}"],
            pass_fds=[number],
            env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": self._shared},
        )

    def _bury(self, worker: "subprocess.Popen[bytes]") -> None:
        # Its counts stay, its gauges go.
        mark_process_dead(worker.pid, self._shared)  # type: ignore[no-untyped-call]


def _ourselves() -> Sequence[str]:
    return [sys.executable, "-m", "service"]


def _ended(worker: "subprocess.Popen[bytes]", seconds: float) -> int:
    try:
        return worker.wait(max(0.0, seconds))
    except subprocess.TimeoutExpired:
        worker.kill()
        return worker.wait()
