"""Starts our model server as a real process, and speaks to it as its clients do: with the official stubs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import grpc
import pytest
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

REPOSITORY = Path(__file__).resolve().parents[3]
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
START_SECONDS = 60.0
TENSORFLOW = ("tensorflow", "keras", "tensorflow_serving")
"""What brings TensorFlow into a process."""


def eventually(true: Callable[[], object], what: str, seconds: float = 20.0) -> None:
    """Wait until something holds, and fail when it does not in time."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)


def free_port() -> int:
    """Return a TCP port without a listener."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Client:
    """The official stubs on one channel."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(address, options=UNLIMITED)
        self.prediction = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.models = model_service_pb2_grpc.ModelServiceStub(self.channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()

    def predict(self, request: predict_pb2.PredictRequest, timeout: float = 30.0) -> predict_pb2.PredictResponse:
        """Call Predict."""
        return self.prediction.Predict(request, timeout=timeout)

    def states(self, model: str) -> dict[int, str]:
        """Return the state of every version of a model by number, in the order of the answer."""
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = model
        state = get_model_status_pb2.ModelVersionStatus.State
        try:
            answer = self.models.GetModelStatus(request, timeout=10)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            return {}
        return {status.version: state.Name(status.state) for status in answer.model_version_status}


class ServerProcess:
    """``python -m modelserver`` on a Unix socket, its log in a file.

    Args:
        directory: A short-lived directory for socket and log.
        flags: What to add to the command line.
        port: TCP port as well; 0 for none.
        log: Name of the log file.
        without: Packages that it cannot import.
    """

    def __init__(
        self, directory: Path, *flags: str, port: int = 0, log: str = "log", without: Sequence[str] = ()
    ) -> None:
        if external_address():
            pytest.skip("needs a server of its own; MICROTOME_TFSERVING_ADDRESS names one that is there already")
        directory.mkdir(parents=True, exist_ok=True)
        self.socket = directory / "socket"
        self.address = f"unix:{self.socket}"
        self.log_file = directory / log
        absent = f"import sys; sys.modules.update(dict.fromkeys({list(without)})); sys.argv[0] = 'modelserver'; "
        program = f"{absent}import runpy; runpy.run_module('modelserver', run_name='__main__')"
        started = ["-c", program] if without else ["-m", "modelserver"]
        command = [sys.executable, *started, f"--port={port}", f"--grpc_socket_path={self.socket}", *flags]
        with self.log_file.open("wb") as file:
            self.process = subprocess.Popen(command, cwd=REPOSITORY, stderr=file, stdout=file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def log(self) -> str:
        """What it has said so far."""
        return self.log_file.read_text()

    @property
    def serving(self) -> bool:
        """Whether it has said that it listens."""
        return "modelserver.application: Serving " in self.log

    def ready(self) -> Self:
        """Wait until it serves."""
        eventually(lambda: self.process.poll() is not None or self.serving, "serving", START_SECONDS)
        assert self.process.poll() is None, self.log
        return self

    def exit_status(self, seconds: float = START_SECONDS) -> int:
        """Wait for its end."""
        return self.process.wait(seconds)

    def terminate(self) -> int:
        """Ask it to stop, as a supervisor does, and wait for its end."""
        self.process.send_signal(signal.SIGTERM)
        return self.exit_status(20)

    def kill(self) -> None:
        """Make sure that it is gone."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(20)


def external_address() -> str | None:
    """Return the address of the server to test instead of ours, if there is one."""
    return os.environ.get("MICROTOME_TFSERVING_ADDRESS")


def status_of(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str]:
    """Return code and text of a call that must fail."""
    try:
        answer = call()
    except grpc.RpcError as error:
        return error.code(), error.details() or ""
    raise AssertionError(f"expected an error, received {answer}")
