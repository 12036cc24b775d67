"""Weaviate's client is a Go binary, so its requests are replayed; here what only time and a real gateway can show.

The bytes of its requests are held in tests/unit/service/http_api/dialects/test_weaviate.py.
"""

import time
from socket import socket

import httpx
import pytest

from tests.clients.conftest import READY, answered
from tests.e2e.processes import Gateway, eventually

GO_IDLE = 90
"""Seconds for which Go's net/http keeps an idle connection and may still send a request on it."""


def test_ready_is_answered_before_weaviate_gives_up(gateway: Gateway) -> None:
    """It waits 500 ms for each probe, asks without a key, and tries again as long as none succeeds."""

    def ready() -> bool:
        try:
            return httpx.get(f"{gateway.url}/.well-known/ready", timeout=0.5, trust_env=False).status_code == 204
        except httpx.TimeoutException:
            return False

    eventually(ready, "a probe is answered in 500 ms")


@pytest.mark.timeout(200)
def test_an_idle_connection_outlives_go(idle: tuple[socket, float]) -> None:
    """A request on a connection that has been idle for longer than Go keeps one is answered, not reset."""
    connection, since = idle
    # The other tests have taken most of this time already: the connection was opened before them.
    time.sleep(max(0.0, since + GO_IDLE + 1 - time.monotonic()))
    connection.sendall(READY)
    assert answered(connection).startswith(b"HTTP/1.1 204 ")
