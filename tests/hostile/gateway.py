"""A gateway in a process of its own, with the manifests' memory, which tells how long its event loop was held.

The model server is a fake, in the same process: what is measured is what a request costs before it comes to a model.
"""

import asyncio
import gc
import hashlib
import multiprocessing
import resource
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
import uvloop
from fastapi import FastAPI

from microtome.arriving import Arriving
from microtome.parent import follow_parent
from service.auth import Keyring, read_keys
from service.grpc.embed import CallLimits
from service.grpc.kserve import Inference
from service.grpc.middleware import Calls
from service.grpc.server import Listening, Methods, grpc_server
from service.http.app import HttpOptions, http_app
from service.http.bodies import BodyLimits
from service.http.connection_limits import limited_protocol
from service.telemetry.logs import configure
from service.telemetry.metrics import Metrics
from tests.e2e.processes import free_port
from tests.fakes.intake import intake_over
from tests.fakes.model_server import FakeModelServer, card

MEMORY = 1536 << 20
"""The gateway's limit in deploy/kubernetes/base/gateway.yaml."""

KEY = "a key that is known"

_MB = 1 << 20
_TICK = 0.001


def report(line: str) -> None:
    """Print a line of a table."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


@dataclass(frozen=True)
class Running:
    """A gateway that runs.

    Attributes:
        stalls: shared with it: the longest time between two ticks of its loop since this was read last, in seconds: of
            its processor, and by the clock; and the longest garbage collection within it, of the processor.
    """

    http: int
    grpc: int
    process: Any
    stalls: Any

    def peak(self) -> float:
        """Return the most memory that it has had, in MB, since the last call; the count begins again."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        found = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5", encoding="ascii")
        return found / 1024

    def stalled(self) -> tuple[float, float]:
        """Return the longest stalls in milliseconds, of the processor and by the clock; the count begins again."""
        found = self.stalls[0] * 1000, self.stalls[1] * 1000
        self.stalls[0] = self.stalls[1] = 0.0
        return found

    def collected(self) -> float:
        """Return the longest garbage collection in milliseconds of the processor; the count begins again."""
        found, self.stalls[2] = self.stalls[2] * 1000, 0.0
        return float(found)


@contextmanager
def running() -> Iterator[Running]:
    """Run a gateway with the default limits and one known key."""
    context = multiprocessing.get_context("spawn")
    ports, stalls = (free_port(), free_port()), context.Array("d", 3, lock=False)
    process = context.Process(target=_run, args=(ports, stalls), daemon=True)
    process.start()
    try:
        yield Running(*ports, process, stalls)
    finally:
        process.terminate()
        process.join()


def _run(ports: tuple[int, int], stalls: Any) -> None:
    # Writable memory, which is what is resident at most; no test may need a control group.
    follow_parent()
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    uvloop.run(_serve(ports, stalls))


async def _serve(ports: tuple[int, int], stalls: Any) -> None:
    metrics, log = Metrics(), configure("json", "error")
    limits = BodyLimits(20 * _MB, 64 * _MB, 64)
    keyring = Keyring(read_keys([f"tester sha256:{hashlib.sha256(KEY.encode()).hexdigest()}"]))
    decoders = ThreadPoolExecutor(2)
    intake = intake_over(
        FakeModelServer(card()),
        decoders,
        metrics,
        bodies=limits,
        max_pixels=50_000_000,
        images_in_flight=256,
        body_bytes_in_flight=256 * _MB,
    )
    app = http_app(
        intake=intake,
        options=HttpOptions(limits, "0", response_cache_bytes=1 << 20),
        metrics=metrics,
        log=log,
        lifespan=_nothing,
        keyring=keyring,
    )
    own = CallLimits(limits.max_image_bytes, limits.max_body_bytes, limits.max_images, 64)
    arriving = Arriving(lambda: max(intake.bodies.left(), limits.max_body_bytes), limits.max_body_bytes)
    calls = Calls(metrics, log, limit=1000, limit_each=256, arriving=arriving, keyring=keyring)
    listening = Listening("127.0.0.1", ports[1], shared=False, drain=1)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            port=ports[0],
            http=limited_protocol(metrics, head_seconds=10),
            ws="none",
            lifespan="off",
            log_level="error",
            access_log=False,
            timeout_keep_alive=95,
        )
    )
    # As the gateway does: else collecting all modules' objects would be the longest stall.
    gc.freeze()
    gc.callbacks.append(_collecting(stalls))
    watching = asyncio.create_task(_watch(stalls))
    also = (Inference(calls, intake, own),)
    async with grpc_server(Methods(calls, intake, own), listening, asyncio.Event(), also):
        await server.serve()
    watching.cancel()


@asynccontextmanager
async def _nothing(_: FastAPI) -> AsyncIterator[None]:
    yield


def _collecting(stalls: Any) -> Callable[[str, Any], None]:
    begun = [0.0]

    def note(phase: str, _: Any) -> None:
        if phase == "start":
            begun[0] = time.thread_time()
        else:
            stalls[2] = max(stalls[2], time.thread_time() - begun[0])

    return note


async def _watch(stalls: Any) -> None:
    own, clock = time.thread_time(), time.monotonic()
    while True:
        await asyncio.sleep(_TICK)
        own, before_own = time.thread_time(), own
        clock, before_clock = time.monotonic(), clock
        stalls[0] = max(stalls[0], own - before_own)
        stalls[1] = max(stalls[1], clock - before_clock - _TICK)
