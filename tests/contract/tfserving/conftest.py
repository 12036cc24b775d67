"""Fixtures of the conformance tests: the models, our server with and without batching, or the server that is given."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest

from tests.contract.tfserving.server_process import TENSORFLOW, Client, ServerProcess, external_address
from tests.contract.tfserving.tiny_models import write_all, write_lone_models


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the models once, and return the configuration file that serves them."""
    return write_all(tmp_path_factory.mktemp("tiny_models"))


@pytest.fixture(scope="session")
def socket_directory() -> Iterator[Path]:
    """Return a directory whose path is short enough for Unix sockets."""
    with TemporaryDirectory(prefix="ms") as directory:
        yield Path(directory)


@pytest.fixture(scope="session")
def address(tiny_config: Path, socket_directory: Path) -> Iterator[str]:
    """Return the address of the server under test: the one that is given, or ours, without batching."""
    if given := external_address():
        yield given
        return
    with ServerProcess(
        socket_directory / "plain",
        f"--model_config_file={tiny_config}",
        # The real server has no such bound, and tests send lists of millions of numbers.
        "--max_request_rows=10000000",
        "--allow_version_labels_for_unavailable_models",
        "--enable_grpc_healthcheck_service",
    ) as server:
        yield server.ready().address


@pytest.fixture(scope="session")
def batching_address(tiny_config: Path, socket_directory: Path) -> Iterator[str]:
    """Return the address of our server with batching, which answers with raw bytes."""
    with ServerProcess(
        socket_directory / "batching",
        f"--model_config_file={tiny_config}",
        "--allow_version_labels_for_unavailable_models",
        "--enable_batching",
        "--enable_serialization_as_tensor_content=true",
    ) as server:
        yield server.ready().address


@pytest.fixture(scope="session")
def openvino_address(tmp_path_factory: pytest.TempPathFactory, socket_directory: Path) -> Iterator[str]:
    """Return the address of our server where TensorFlow cannot be imported: OpenVINO computes the model that it can."""
    with ServerProcess(
        socket_directory / "openvino",
        f"--model_config_file={write_lone_models(tmp_path_factory.mktemp('lone'))}",
        "--allow_version_labels_for_unavailable_models",
        "--enable_grpc_healthcheck_service",
        without=TENSORFLOW,
    ) as server:
        yield server.ready().address


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    """Return a client of the server under test."""
    with Client(address) as client:
        yield client


@pytest.fixture
def batching_client(batching_address: str) -> Iterator[Client]:
    """Return a client of the batching server."""
    with Client(batching_address) as client:
        yield client


@pytest.fixture
def start(socket_directory: Path) -> Iterator[Callable[..., ServerProcess]]:
    """Return a function that starts one more server with the given flags; it ends with the test."""
    started: list[ServerProcess] = []

    def start_one(*flags: str, port: int = 0, where: Path | None = None, log: str = "log") -> ServerProcess:
        directory = where or socket_directory / f"{os.getpid()}-{len(list(socket_directory.iterdir()))}"
        started.append(ServerProcess(directory, *flags, port=port, log=log))
        return started[-1]

    yield start_one
    for server in started:
        server.kill()
