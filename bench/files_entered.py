"""How many files a reader opens to follow one request: those of service/ and microtome/ that POST /embed enters.

    python bench/files_entered.py [--list]

A profile hook notes the file of every function that is called, in all threads, while a gateway over a fake model server
answers over a real socket: one miss, and one hit of the response cache.
"""

import argparse
import asyncio
import socket
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY))

from service.http.app import HttpOptions, http_app  # noqa: E402
from service.http.bodies import BodyLimits  # noqa: E402
from service.http.connection_limits import limited_protocol  # noqa: E402
from service.telemetry.logs import configure  # noqa: E402
from service.telemetry.metrics import Metrics  # noqa: E402
from tests.fakes.intake import intake_over  # noqa: E402
from tests.fakes.model_server import FakeModelServer, card  # noqa: E402
from tests.pictures import png  # noqa: E402

PACKAGES = ("service", "microtome")


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


@asynccontextmanager
async def _nothing(_: FastAPI) -> AsyncIterator[None]:
    yield


async def ask(port: int, image: bytes) -> None:
    """Send one image."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"POST /embed HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(image) + image
    )
    answer = await reader.read()
    if not answer.startswith(b"HTTP/1.1 200 "):
        raise SystemExit(answer.decode("latin-1"))
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


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="print the files, too")
    options = parser.parse_args()
    for name, files in asyncio.run(measured()).items():
        print(f"{name}: {len(files)} files")
        if options.list:
            print("\n".join(f"  {file}" for file in files))


if __name__ == "__main__":
    main()
