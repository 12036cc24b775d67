"""Weaviate's client is a Go binary, so its requests are replayed; here what only time and a real gateway can show.

The bytes of its requests are held in tests/unit/service/http/compat/test_weaviate.py.
"""

from concurrent.futures import Future

import httpx

from tests.e2e.processes import Gateway, eventually


def test_ready_is_answered_before_weaviate_gives_up(gateway: Gateway) -> None:
    """It waits 500 ms for each probe, asks without a key, and tries again as long as none succeeds."""

    def ready() -> bool:
        try:
            return httpx.get(f"{gateway.url}/.well-known/ready", timeout=0.5, trust_env=False).status_code == 204
        except httpx.TimeoutException:
            return False

    eventually(ready, "a probe is answered in 500 ms")


def test_an_idle_connection_outlives_go(after_idling: Future[bytes]) -> None:
    """A request on a connection that has been idle for longer than Go keeps one is answered, not reset."""
    assert after_idling.result(timeout=120).startswith(b"HTTP/1.1 204 ")
