"""Is the gateway ready, and if not, what is it waiting for?"""

import asyncio
import http.client
import json
import time
from collections.abc import Callable
from contextlib import suppress

from microtome.up.addresses import Endpoint

INTERVAL = 0.1
TIMEOUT = 2.0
# The gateway needs a moment to find a model server that has just come up; reasons before that would only alarm.
PATIENCE = 3.0


async def until_ready(
    gateway: Endpoint, models_loaded: Callable[[], bool], waiting: Callable[[str | None, float], None]
) -> float:
    """Poll until the gateway says that it is ready, and return the seconds that took.

    Args:
        gateway: Where it listens.
        models_loaded: Whether the embedded model server, if there is one, has come that far.
        waiting: Told, at every look, what is being waited for (None at the end) and for how long.
    """
    begin = changed = time.monotonic()
    stage = ""
    while True:
        obstacle = await asyncio.to_thread(_obstacle, gateway)
        now = time.monotonic()
        if obstacle is None:
            waiting(None, now - begin)
            return now - begin
        what, reasons = obstacle if models_loaded() else ("loading the models", "")
        stage, changed = (stage, changed) if what == stage else (what, now)
        waiting(what + (reasons if now - changed >= PATIENCE else ""), now - begin)
        await asyncio.sleep(INTERVAL)


def _obstacle(gateway: Endpoint) -> tuple[str, str] | None:
    """Say in words why the gateway is not ready, and its own reasons; None when it is."""
    # Not urllib: it would send requests to this very machine through a configured proxy.
    connection = http.client.HTTPConnection(gateway.local_host, gateway.port, timeout=TIMEOUT)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException):
        return "starting the gateway", ""
    finally:
        connection.close()
    return None if response.status == http.client.OK else ("waiting for the gateway to be ready", _reasons(body))


def _reasons(body: bytes) -> str:
    """Find what the gateway says about each model."""
    with suppress(ValueError, TypeError, KeyError, AttributeError):
        reasons = [f"{model}: {reason}" for model, reason in json.loads(body)["models"].items() if reason]
        return f" ({'; '.join(reasons)})" if reasons else ""
    return ""
