"""A gateway with an API key over a real model, and what its own route says of the same photos."""

import hashlib
import os
import socket
import tempfile
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.e2e.photos import EXAMPLES, NAMES
from tests.e2e.processes import Gateway, free_port, serving

# Before the clients are imported: none of them asks anything but the gateway.
os.environ |= {"HAYSTACK_TELEMETRY_ENABLED": "False", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_PROXY": "127.0.0.1"}

KEY = "a-key-for-clients"
GRPC_PORT = free_port()


@pytest.fixture(scope="session")
def gateway(lite0_models: Path) -> Iterator[Gateway]:
    """The gateway, serving; it knows one key."""
    keys = f"clients sha256:{hashlib.sha256(KEY.encode()).hexdigest()}"
    with (
        tempfile.TemporaryDirectory(prefix="microtome-clients-", ignore_cleanup_errors=True) as path,
        serving(Path(path), lite0_models, api_keys=keys, grpc_port=GRPC_PORT) as gateway,
    ):
        yield gateway


READY = b"GET /.well-known/ready HTTP/1.1\r\nHost: gateway\r\nUser-Agent: Go-http-client/1.1\r\n\r\n"


GO_IDLE = 90
"""Seconds for which Go's net/http keeps an idle connection and may still send a request on it."""


@pytest.fixture(scope="session", autouse=True)
def after_idling(gateway: Gateway) -> Iterator[Future[bytes]]:
    """The answer on a connection that has been idle for as long as Go keeps one; time passes beside the tests."""

    def ask() -> bytes:
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as connection:
            connection.sendall(READY)
            assert connection.recv(4096).startswith(b"HTTP/1.1 204 ")
            over.wait(GO_IDLE + 1)
            connection.sendall(READY)
            return connection.recv(4096)

    over = Event()
    with ThreadPoolExecutor(1) as thread:
        yield thread.submit(ask)
        over.set()


@pytest.fixture(scope="session")
def photos() -> list[Path]:
    """Paths of three photos."""
    return [EXAMPLES / f"{name}.jpg" for name in NAMES]


@pytest.fixture
def uris(photos: list[Path]) -> list[str]:
    """The photos as data URIs."""
    return [f"data:image/jpeg;base64,{b64encode(photo.read_bytes()).decode()}" for photo in photos]


@pytest.fixture
def vectors(gateway: Gateway, photos: list[Path]) -> Callable[..., NDArray[np.float32]]:
    """Return a function that asks POST /embed for the photos' vectors, with options of its own."""

    def ask(**options: object) -> NDArray[np.float32]:
        with gateway.client() as client:
            answer = client.post(
                "/embed",
                json={"images": [{"b64": b64encode(photo.read_bytes()).decode()} for photo in photos], **options},
                headers={"Authorization": f"Bearer {KEY}"},
            )
        assert answer.status_code == 200, answer.text
        return np.array([one["vector"] for one in answer.json()["embeddings"]], np.float32)

    return ask


@pytest.fixture
def labels(gateway: Gateway, photos: list[Path]) -> Callable[..., list[list[dict[str, Any]]]]:
    """Return a function that asks POST /classify for the photos' labels, with options of its own."""

    def ask(**options: object) -> list[list[dict[str, Any]]]:
        with gateway.client() as client:
            answer = client.post(
                "/classify",
                json={"images": [{"b64": b64encode(photo.read_bytes()).decode()} for photo in photos], **options},
                headers={"Authorization": f"Bearer {KEY}"},
            )
        assert answer.status_code == 200, answer.text
        return [prediction["labels"] for prediction in answer.json()["predictions"]]

    return ask


@pytest.fixture
def unit_vectors(vectors: Callable[..., NDArray[np.float32]]) -> NDArray[np.float32]:
    """What POST /embed says of the photos, normalised, as the contracts of others have it."""
    return vectors(normalize=True)
