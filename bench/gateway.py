"""What the gateway costs: hits beside a bare FastAPI echo, and misses beside decoding alone.

    python bench/gateway.py --models DIR [--seconds 3] [--rounds 5]

All contestants of a round run one after the other, in turning order, so that a busy machine slows all alike; what is
printed is the median of the rounds' ratios, with the least and the most.

* echo: FastAPI on uvicorn, reads the same body and answers as many bytes
* memory: the gateway's `POST /embed` of the same photo, from its own memory
* redis: the same with Redis or Valkey as its only cache
* miss: a photo that nobody has seen; seconds of the gateway's CPU per image beside `decode` in a process of its own
"""

import argparse
import asyncio
import itertools
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY))

from microtome.manifest import InputSpec  # noqa: E402
from microtome.preprocessing import decode  # noqa: E402
from tests.e2e.processes import Gateway, ModelServer, Process, Valkey, free_port  # noqa: E402

PHOTO = (REPOSITORY / "examples" / "cat.jpg").read_bytes()
CONNECTIONS = 16
_serial = itertools.count()


class Echo(Process):
    """A bare FastAPI application that reads the body and answers a fixed number of bytes."""

    name = "echo"

    def __init__(self, directory: Path, answer_bytes: int) -> None:
        super().__init__(directory)
        self.port = free_port()
        self._answer_bytes = answer_bytes

    def words(self) -> list[str]:
        """A program of a few lines, served as the gateway serves."""
        program = f"""
import uvicorn
from fastapi import FastAPI, Request, Response
app = FastAPI()
answer = b"x" * {self._answer_bytes}
@app.post("/embed")
async def embed(request: Request) -> Response:
    await request.body()
    return Response(answer, media_type="application/json")
uvicorn.run(app, port={self.port}, loop="uvloop", http="httptools", log_level="error", access_log=False)
"""
        return [sys.executable, "-c", program]

    def serving(self) -> bool:
        """Whether it answers."""
        try:
            return bool(asyncio.run(rate(self.port, 1, seconds=0.01)))
        except OSError:
            return False


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, photo: bytes) -> int:
    """Send one photo over an open connection and return how many bytes the answer's body had."""
    writer.write(b"POST /embed HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(photo) + photo)
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise SystemExit(head.decode())
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
    return len(await reader.readexactly(int(length.split(b":")[1])))


async def rate(port: int, connections: int, *, seconds: float, fresh: bool = False) -> float:
    """Send as fast as the server answers and return answers per second."""
    end = time.perf_counter() + seconds
    answers = 0

    async def client() -> None:
        nonlocal answers
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < end:
            await ask(reader, writer, PHOTO + b"%d" % next(_serial) if fresh else PHOTO)
            answers += 1
        writer.close()

    begin = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(connections)))
    return answers / (time.perf_counter() - begin)


async def answer_bytes(port: int) -> int:
    """Return the size of an answer's body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    size = await ask(reader, writer, PHOTO)
    writer.close()
    return size


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def decoding_seconds(images: int = 200) -> float:
    """Return the CPU seconds that decoding one image takes, alone."""
    spec = InputSpec(224, 224, "rgb", "shortest-side", 256, "bicubic", "center", exif_orientation=True, jpeg_draft=True)
    begin = resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(images):
        decode(PHOTO, spec, max_pixels=50_000_000)
    end = resource.getrusage(resource.RUSAGE_SELF)
    return (end.ru_utime + end.ru_stime - begin.ru_utime - begin.ru_stime) / images


@contextmanager
def started(*processes: Process) -> Iterator[None]:
    """Run processes, the first one first."""
    with ExitStack() as stack:
        for process in processes:
            process.start()
            stack.callback(process.destroy)
        yield


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True, help="a models directory with lite0 in it")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each contestant in each round (3)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (5)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="microtome-bench-") as path, ExitStack() as stack:
        directory = Path(path)
        valkey, server = Valkey(directory), ModelServer(directory, options.models.resolve())
        quiet = {"log_level": "error"}
        memory = Gateway(directory, server.address, **quiet)
        redis = Gateway(directory, server.address, redis_url=valkey.url, cache_bytes=0, **quiet)
        stack.enter_context(started(valkey, server, memory, redis))
        echo = Echo(directory, asyncio.run(answer_bytes(memory.port)))
        asyncio.run(answer_bytes(redis.port))
        stack.enter_context(started(echo))
        ports = {"echo": echo.port, "memory": memory.port, "redis": redis.port}
        rates = measure(ports, options.seconds, options.rounds)
        print_rates(rates)
        print_misses(memory, options.seconds, options.rounds)


def measure(ports: Mapping[str, int], seconds: float, rounds: int) -> list[dict[str, float]]:
    """Return answers per second by contestant, for each round; the first round only warms up."""
    found = []
    names = list(ports)
    for number in range(rounds + 1):
        order = names[number % len(names) :] + names[: number % len(names)]
        rates = {name: asyncio.run(rate(ports[name], CONNECTIONS, seconds=seconds)) for name in order}
        found += [rates] if number else []
    return found


def print_rates(rates: list[dict[str, float]]) -> None:
    """Print answers per second and their ratio to the echo's."""
    for name in rates[0]:
        ratios = [row[name] / row["echo"] for row in rates]
        print(
            f"{name:8}{statistics.median(row[name] for row in rates):8.0f} /s   "
            f"{statistics.median(ratios):.2f} of echo ({min(ratios):.2f} to {max(ratios):.2f})"
        )


def print_misses(gateway: Gateway, seconds: float, rounds: int) -> None:
    """Print the gateway's CPU per image computed, beside decoding alone."""
    ratios = []
    for _ in range(rounds):
        before, begin = cpu_seconds(gateway.pid), time.perf_counter()
        images = asyncio.run(rate(gateway.port, CONNECTIONS, seconds=seconds, fresh=True)) * (
            time.perf_counter() - begin
        )
        ratios.append((cpu_seconds(gateway.pid) - before) / images / decoding_seconds())
    print(f"miss    {statistics.median(ratios):8.2f} of decoding's CPU ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
