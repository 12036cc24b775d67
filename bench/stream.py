"""EmbedStream compared with POST /embed: the same images, equally many in flight, one after the other in each round.

    python bench/stream.py --models DIR [--images 10000] [--concurrency 16] [--rounds 5] [--fresh]

Clients run in processes of their own: gRPC's Python client with one stream, and a bare HTTP client with as many
connections as images may be in flight. The photo is in the gateway's memory cache; with --fresh each image is new, and
is decoded and computed. Prints the medians over the rounds of images per second, of the gateway's CPU per image, and of
the ratios within a round, with the least and the most; and the resident memory (VmRSS) of both sides after a tenth of
the images and at the end. The first round only warms up.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY))

import grpc.aio  # noqa: E402

from bench.processes.usage import cpu_seconds, resident_megabytes  # noqa: E402
from bench.reporting.comparison import cell  # noqa: E402
from microtome.client.grpc_stream import embed_stream  # noqa: E402
from microtome.v1.embedding_pb2_grpc import EmbeddingServiceStub  # noqa: E402
from tests.e2e.processes import Gateway, ModelServer, free_port  # noqa: E402

PHOTO = (REPOSITORY / "examples" / "cat.jpg").read_bytes()
WAYS = ("stream", "http")

Row = dict[str, float]
"""One way's run: images per second, CPU milliseconds per image, megabytes of both sides early and late."""


class Sending:
    """The images that a client sends, and the resident memory of client and gateway meanwhile."""

    def __init__(self, images: int, salt: str, gateway: int) -> None:
        self._left = images
        self._mark = images - images // 10
        self._salt = salt
        self._pids = {"client": os.getpid(), "gateway": gateway}
        self.memory: Row = {}

    def images(self) -> Iterator[bytes]:
        """Yield images until all have been sent; several callers share them."""
        while self._left:
            self._left -= 1
            if self._left == self._mark:
                self.note("early")
            yield PHOTO + f"{self._salt}{self._left}".encode() if self._salt else PHOTO

    def note(self, when: str) -> None:
        """Record the resident memory of both sides."""
        self.memory |= {f"{side} {when}": resident_megabytes(pid) for side, pid in self._pids.items()}


async def over_stream(port: int, concurrency: int, sending: Sending) -> int:
    """Send over one stream, with at most `concurrency` images in flight; return how many were answered."""
    answered = 0
    images = ((str(number), image) for number, image in enumerate(sending.images()))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        async for answer in embed_stream(EmbeddingServiceStub(channel), images, under_way=concurrency):
            answered += len(answer.result.embeddings)
    return answered


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, photo: bytes) -> None:
    """Send one photo over an open connection and read the answer."""
    writer.write(b"POST /embed HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(photo) + photo)
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise SystemExit(head.decode())
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
    await reader.readexactly(int(length.split(b":")[1]))


async def over_http(port: int, concurrency: int, sending: Sending) -> int:
    """Send over `concurrency` connections, one image at a time on each; return how many were answered."""
    answered = 0

    async def caller() -> None:
        nonlocal answered
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for image in sending.images():
            await ask(reader, writer, image)
            answered += 1
        writer.close()

    await asyncio.gather(*(caller() for _ in range(concurrency)))
    return answered


SENDERS: dict[str, Callable[[int, int, Sending], Awaitable[int]]] = {"stream": over_stream, "http": over_http}


async def client(words: Sequence[str]) -> Row:
    """Send all images one way, and return the rate and the memory."""
    way, port, concurrency, images, salt, gateway = words
    sending = Sending(int(images), salt, int(gateway))
    begin = time.perf_counter()
    answered = await SENDERS[way](int(port), int(concurrency), sending)
    seconds = time.perf_counter() - begin
    sending.note("late")
    if answered != int(images):
        raise SystemExit(f"{answered} of {images} were answered")
    return {"rate": int(images) / seconds, **sending.memory}


def run(way: str, port: int, pid: int, options: argparse.Namespace, salt: str) -> Row:
    """Run one way's client in a process of its own, and watch the gateway's CPU."""
    words = [way, port, options.concurrency, options.images, salt, pid]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    before = cpu_seconds(pid)
    done = subprocess.run(
        [sys.executable, __file__, "--models=.", "--client", *map(str, words)],
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
    )
    row: Row = json.loads(done.stdout)
    return {**row, "cpu": 1000 * (cpu_seconds(pid) - before) / options.images}


@contextmanager
def gateway(models: Path) -> Iterator[tuple[dict[str, int], int]]:
    """Run a gateway over a model server; yields its port for each way, and its process id."""
    with tempfile.TemporaryDirectory(prefix="microtome-bench-") as path:
        server = ModelServer(Path(path), models.resolve())
        own = Gateway(Path(path), server.address, grpc_port=free_port(), log_level="error")
        try:
            server.start()
            own.start()
            port = int(own.environment()["MICROTOME_GRPC_PORT"])
            yield {"stream": port, "http": own.port}, own.pid
        finally:
            own.destroy()
            server.destroy()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True, help="a models directory with lite0 in it")
    parser.add_argument("--images", type=int, default=10_000, help="of each way in each round (10000)")
    parser.add_argument("--concurrency", type=int, default=16, help="images in flight at a time (16)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (5)")
    parser.add_argument("--fresh", action="store_true", help="send images that are not in the cache")
    parser.add_argument("--client", nargs=6, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        print(json.dumps(asyncio.run(client(options.client))))
        return
    rounds: list[dict[str, Row]] = []
    with gateway(options.models) as (ports, pid):
        for number in range(options.rounds + 1):
            order = WAYS if number % 2 else WAYS[::-1]
            salts = {way: f"{way}{number}-" if options.fresh else "" for way in WAYS}
            rounds.append({way: run(way, ports[way], pid, options, salts[way]) for way in order})
    report(rounds[1:])


def report(rounds: list[dict[str, Row]]) -> None:
    """Print the table."""
    for way in WAYS:
        rate, cpu = (statistics.median(found[way][what] for found in rounds) for what in ("rate", "cpu"))
        print(f"{way:8}{rate:8.0f} images/s {cpu:8.3f} ms of the gateway's CPU an image")
        for side in ("client", "gateway"):
            early, late = (
                statistics.median(found[way][f"{side} {when}"] for found in rounds) for when in ("early", "late")
            )
            print(f"        {side}: {early:.0f} MB after a tenth, {late:.0f} MB at the end")
    print(f"images/s, stream / http: {cell([found['stream']['rate'] / found['http']['rate'] for found in rounds])}")
    print(f"CPU, http / stream: {cell([found['http']['cpu'] / found['stream']['cpu'] for found in rounds])}")


if __name__ == "__main__":
    main()
