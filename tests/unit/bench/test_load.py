"""The load generator, as a process, against a real server of known slowness."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path

import pytest
from PIL import Image

from bench.load.generator import LoadFailed, LoadGenerator
from bench.load.plan import Load, Outcome
from bench.load.run import percentiles, requests

SERVICE_SECONDS = 0.02


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A JPEG."""
    path = tmp_path_factory.mktemp("photo") / "photo.jpg"
    Image.new("RGB", (16, 16), "red").save(path)
    return str(path)


@pytest.fixture(scope="module")
def generator() -> Iterator[LoadGenerator]:
    """The load generator's process."""
    with LoadGenerator() as generator:
        yield generator


@asynccontextmanager
async def one_at_a_time(status: bytes = b"200 OK") -> AsyncIterator[int]:
    """A server that answers one request after the other, each in `SERVICE_SECONDS`."""
    turn = asyncio.Lock()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = re.search(rb"Content-Length: (\d+)", head)
            assert length is not None
            await reader.readexactly(int(length[1]))
            async with turn:
                await asyncio.sleep(SERVICE_SECONDS)
            writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 2\r\n\r\nok")

    async def tolerant(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(tolerant, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def put(generator: LoadGenerator, load: Load) -> Outcome:
    """Put a load on from its own process, while this one serves."""
    return await asyncio.to_thread(generator.put, load)


async def test_open_loop_counts_the_wait_that_a_slow_server_causes(generator: LoadGenerator, photo: str) -> None:
    """Offered twice what the server can do, the last request waits for all before it, and its latency says so."""
    async with one_at_a_time() as port:
        rate = 2 / SERVICE_SECONDS
        outcome = await put(generator, Load(port, [photo], 1.0, connections=2, mode="open", rate=rate))
    assert {"200": int(rate)} == outcome.statuses
    # By then the backlog is half of what was offered; a latency from the moment of sending would be two turns.
    assert outcome.latency["p100"] > 0.25 * rate * SERVICE_SECONDS
    assert outcome.latency["p50"] > 4 * SERVICE_SECONDS


async def test_closed_loop_never_has_more_requests_under_way_than_connections(
    generator: LoadGenerator, photo: str
) -> None:
    """With one connection no request waits for another: each takes as long as the server takes."""
    async with one_at_a_time() as port:
        outcome = await put(generator, Load(port, [photo], 0.5, connections=1))
    assert 1 < outcome.answered <= outcome.seconds / SERVICE_SECONDS
    assert outcome.images == outcome.answered


async def test_answers_other_than_200_are_no_throughput(generator: LoadGenerator, photo: str) -> None:
    """A server that refuses quickly is not fast."""
    async with one_at_a_time(b"429 Too Many Requests") as port:
        outcome = await put(generator, Load(port, [photo], 0.2, connections=2))
    assert 0 < outcome.statuses["429"]
    assert (0, 0.0, {}) == (outcome.images, outcome.rate, outcome.latency)


def test_cold_bodies_never_repeat_and_stay_jpegs(photo: str) -> None:
    """What is appended defeats the cache, and the image is the same."""
    cold = Load(1, [photo], 1.0, draw="cold")
    bodies = [b"".join(pieces[1:]) for pieces in [*islice(requests(cold), 100), *islice(requests(cold), 100)]]
    assert 200 == len(set(bodies))
    assert all(body.startswith(Path(photo).read_bytes()) for body in bodies)


def test_zipf_bodies_are_the_same_for_every_contestant_and_the_first_is_the_most_popular(photo: str) -> None:
    """A comparison of caches must not hang on the luck of the draw."""
    zipf = Load(1, [photo], 1.0, draw="zipf", population=50)
    once, again = ([b"".join(pieces[1:]) for pieces in islice(requests(zipf), 2000)] for _ in range(2))
    assert once == again
    counts = sorted((once.count(body) for body in set(once)), reverse=True)
    assert counts[0] > 3 * counts[9]


def test_percentiles_are_latencies_that_were_seen() -> None:
    """By nearest rank: no interpolation invents one."""
    assert {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 100.0, "p100": 100.0} == percentiles(
        [float(n) for n in range(100, 0, -1)]
    )


async def test_a_server_that_is_not_there_ends_one_load_and_not_the_generator(
    generator: LoadGenerator, photo: str
) -> None:
    """The next load, on another server, is put on."""
    with pytest.raises(LoadFailed, match="ConnectionRefusedError"):
        await put(generator, Load(port=1, images=[photo], seconds=0.1))
    async with one_at_a_time() as port:
        assert (await put(generator, Load(port=port, images=[photo], seconds=0.1))).answered


def test_a_series_of_popular_images_repeats_and_another_shares_nothing(photo: str) -> None:
    """So that each round can begin with a cache that knows none of them."""

    def bodies(series: int) -> list[bytes]:
        load = Load(port=1, images=[photo], seconds=1.0, draw="zipf", series=series)
        return [b"".join(pieces) for pieces in islice(requests(load), 50)]

    assert bodies(1) == bodies(1)
    assert not set(bodies(1)) & set(bodies(2))
