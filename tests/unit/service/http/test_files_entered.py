"""The way of a request stays short: few files of service/ and microtome/ are entered by one POST /embed.

A profile hook notes the file of every function that is called, in all threads, while a gateway over a fake model server
answers over a real socket: one miss, and one hit of the response cache.
"""

import asyncio
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import uvicorn

from service.http.app import HttpOptions, http_app
from service.http.bodies import BodyLimits
from service.http.connection_limits import limited_protocol
from service.telemetry.logs import configure
from service.telemetry.metrics import Metrics
from tests.fakes.intake import intake_over
from tests.fakes.model_server import FakeModelServer, card
from tests.pictures import png
from tests.unit.service.http.conftest import _nothing

REPOSITORY = Path(__file__).parents[4]
PACKAGES = ("service", "microtome")
MOST = {"miss": 29, "hit": 15}


@contextmanager
def noting(files: set[str]) -> Iterator[None]:
    """Add the files of all functions that are called while the block runs."""

    def hook(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            files.add(frame.f_code.co_filename)

    threading.setprofile(hook)
    sys.setprofile(hook)
    try:
        yield
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def ours(files: set[str]) -> list[str]:
    """Return the files of our packages, by their paths in the repository."""
    inside = [Path(name).relative_to(REPOSITORY) for name in files if name.startswith(str(REPOSITORY))]
    return sorted(str(path) for path in inside if path.parts[0] in PACKAGES)


async def ask(port: int, image: bytes) -> None:
    """Send one image."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"POST /embed HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(image) + image
    )
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    writer.close()


async def measured() -> dict[str, list[str]]:
    """Return the files that a miss and a cached response enter."""
    metrics, limits = Metrics(), BodyLimits(1 << 20, 1 << 20, 8)
    # Threads are made while the hook is set, so that it holds in them, too.
    with ThreadPoolExecutor(1) as decoders, socket.create_server(("127.0.0.1", 0)) as listener:
        app = http_app(
            intake=intake_over(FakeModelServer(card()), decoders, metrics, bodies=limits),
            options=HttpOptions(limits, version="0", response_cache_bytes=1 << 20),
            metrics=metrics,
            log=configure("json", "error"),
            lifespan=_nothing,
        )
        protocol = limited_protocol(metrics, head_seconds=10.0)
        server = uvicorn.Server(uvicorn.Config(app, http=protocol, log_level="error", lifespan="off"))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        port = listener.getsockname()[1]
        found: dict[str, list[str]] = {}
        for name, requests_before in (("miss", 0), ("hit", 2)):
            for _ in range(requests_before):
                await ask(port, png(0))
            files: set[str] = set()
            with noting(files):
                await ask(port, png(0))
            found[name] = ours(files)
        server.should_exit = True
        await serving
    return found


async def test_a_request_enters_few_files() -> None:
    """At most 29 of service/ and microtome/ for a miss, and 15 for a response of the response cache."""
    found = await measured()
    assert MOST.keys() == found.keys()
    assert all(len(files) <= MOST[name] for name, files in found.items()), found
