"""The process: signals, sockets, flags.

Better than the real server, which knows no SIGTERM: deployments must not count on it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from tests.contract.tfserving.requests import predict, slow
from tests.contract.tfserving.server_process import (
    REPOSITORY,
    Client,
    ServerProcess,
    eventually,
    external_address,
    free_port,
)

pytestmark = pytest.mark.skipif(bool(external_address()), reason="about our own process, not the server that is given")

Start = Callable[..., ServerProcess]


@pytest.fixture
def flags(tiny_config: Path) -> tuple[str, ...]:
    """Return the flags that serve ``tiny``."""
    return (f"--model_base_path={tiny_config.parent / 'tiny'}", "--model_name=tiny")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_under_way_is_answered_before_the_end(
    start: Start, flags: tuple[str, ...], number: signal.Signals
) -> None:
    """The signal stops new requests, not the one that runs; status 0, and the socket's file is gone."""
    server = start(*flags).ready()
    with Client(server.address) as client:
        client.predict(predict())
        under_way = client.prediction.Predict.future(slow(6000), timeout=60)
        client.predict(predict())  # so the one above has been taken in

        server.process.send_signal(number)

        assert grpc.StatusCode.OK is under_way.code()
    assert 0 == server.exit_status(20)
    assert not server.socket.exists()


def test_what_takes_longer_than_the_grace_period_is_cut_off(start: Start, flags: tuple[str, ...]) -> None:
    """The end comes in time, with status 0, and the caller learns of it."""
    server = start(*flags, "--shutdown_grace_seconds=0.5").ready()
    with Client(server.address) as client:
        client.predict(predict())
        under_way = client.prediction.Predict.future(slow(60_000), timeout=60)
        client.predict(predict())
        began = time.monotonic()

        assert 0 == server.terminate()

        assert time.monotonic() - began < 5
        assert grpc.StatusCode.OK is not under_way.code()


def test_sigterm_while_loading_is_obeyed(start: Start, tmp_path: Path) -> None:
    """A server that waits for its model can be stopped, too."""
    server = start(f"--model_base_path={tmp_path / 'never'}")
    eventually(lambda: "Could not find base path" in server.log, "waits", 60)

    assert 0 == server.terminate()


def test_a_stale_socket_is_replaced_and_one_in_use_is_not(
    start: Start, flags: tuple[str, ...], socket_directory: Path
) -> None:
    """What a killed server left behind is in no process's way; a living one keeps its socket and its port."""
    where, port = socket_directory / "socket in use", free_port()
    dead = start(*flags, where=where).ready()
    dead.kill()
    assert dead.socket.exists()

    first = start(*flags, where=where, port=port).ready()
    same_socket = start(*flags, where=where, log="second")
    same_port = start(*flags, port=port)

    assert (1, 1) == (same_socket.exit_status(), same_port.exit_status())
    assert f"Another server listens on {first.socket}" in same_socket.log
    assert f"Cannot listen on 127.0.0.1:{port}: Address already in use" in same_port.log
    with Client(first.address) as client:
        assert client.predict(predict()).outputs


def test_exit_with_parent(flags: tuple[str, ...], socket_directory: Path) -> None:
    """A parent that is killed takes the server along."""
    socket = socket_directory / "orphan"
    command = [sys.executable, "-m", "modelserver", "--port=0", f"--grpc_socket_path={socket}", "--exit_with_parent"]
    starts = f"import subprocess; p = subprocess.Popen({[*command, *flags]}); print(p.pid, flush=True); p.wait()"
    with subprocess.Popen(
        [sys.executable, "-c", starts], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        assert parent.stdout is not None
        server = int(parent.stdout.readline())
        eventually(socket.exists, "serving", 60)
        assert _alive(server)

        parent.kill()

        eventually(lambda: not _alive(server), "ended with its parent")
    assert not socket.exists()


def test_help_does_not_import_tensorflow() -> None:
    """It is there at once, names every flag, and ends with status 0."""
    code = "import sys; from modelserver.__main__ import main; main(['--help']); assert 'tensorflow' not in sys.modules"

    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)

    assert "--model_config_file=" in done.stdout
    assert "--xla_cpu_compilation_enabled" in done.stdout


def test_5_an_unknown_flag_is_an_error_that_names_the_nearest() -> None:
    """Stricter than the real server, which starts without it."""
    command = [sys.executable, "-m", "modelserver", "--enable_batchin"]

    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)

    assert (2, "Unknown flag: --enable_batchin. Nearest: --enable_batching") == (
        done.returncode, done.stderr.strip()[:66],
    )  # fmt: skip


def test_the_log_says_what_is_ignored_and_in_one_line_what_is_served(start: Start, flags: tuple[str, ...]) -> None:
    """One argument list serves both servers; TensorFlow's chatter is not around our lines."""
    server = start(*flags, "--enable_profiler=false", "--prefer_tflite_model=true").ready()

    assert "--enable_profiler has no meaning here" in server.log
    assert "--prefer_tflite_model has no meaning here" in server.log
    said = [line for line in server.log.splitlines() if "INFO modelserver.application" in line]
    assert [f"Serving tiny on unix:{server.socket}"] == [line.split(": ", 1)[1] for line in said]
    assert "oneDNN" not in server.log


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1].split()[0] != "Z" if Path("/proc").exists() else True
