"""Requests over real sockets: in pieces, pipelined, half sent, with slow readers and callers that go away."""

import asyncio
import gc
import re
import socket
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.cache.coalescing import CoalescingCache
from service.http.connection_limits import limited_protocol
from tests.fakes.vector_cache import FakeCache
from tests.pictures import png
from tests.unit.service.http.conftest import Gateway, gateway_with
from tests.unit.service.http.test_disconnects import listening, shows

IMAGE = png()
HEAD = b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n"
REQUEST = HEAD % len(IMAGE) + b"\r\n" + IMAGE
LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n")


class Peer:
    """Who sends bytes, and reads answers one by one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def send(self, *pieces: bytes) -> None:
        """Send pieces, each of which the server reads by itself."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            await asyncio.sleep(0.02)

    async def answer(self) -> tuple[int, bytes, bytes]:
        """Read one answer: its status, head and body."""
        head = await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), 10)
        found = LENGTH.search(head)
        assert found
        return int(head.split()[1]), head, await self._reader.readexactly(int(found[1]))

    async def rest(self) -> bytes:
        """Read to the connection's end."""
        return await asyncio.wait_for(self._reader.read(), 10)


@pytest.fixture
async def port(gateway: Gateway) -> AsyncIterator[int]:
    """Port of the gateway over its own protocol; IMAGE is known, and its response cached."""
    for _ in range(2):
        await gateway.client.post("/embed", content=IMAGE)
    async with listening(gateway.app, served(gateway)) as found:
        yield found


def served(gateway: Gateway, **bounds: Any) -> type[HttpToolsProtocol]:
    """The gateway's connections, as it is run."""
    return limited_protocol(gateway.metrics, **{"head_seconds": 10.0, **bounds})


@asynccontextmanager
async def peer_of(port: int, takes: int | None = None) -> AsyncIterator[Peer]:
    """A connection, over which no more bytes can be under way to us than we take, where that is said."""
    link = socket.socket()
    if takes:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, takes)
    link.setblocking(False)
    await asyncio.get_running_loop().sock_connect(link, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=link)
    try:
        yield Peer(reader, writer)
    finally:
        writer.close()


@pytest.mark.parametrize(
    "pieces",
    [
        (REQUEST,),
        (REQUEST[:20], REQUEST[20:]),
        (REQUEST[: -len(IMAGE)], IMAGE),
        (REQUEST[:-40], REQUEST[-40:-20], REQUEST[-20:]),
        (b"\r\n" + REQUEST,),
    ],
    ids=["at once", "a torn head", "the body behind the head", "a torn body", "an empty line before"],
)
async def test_pieces_of_a_request(port: int, pieces: tuple[bytes, ...]) -> None:
    """Three times over one connection: the same answer, and the connection stays open."""
    async with peer_of(port) as peer:
        for _ in range(3):
            await peer.send(*pieces)
            status, head, body = await peer.answer()
            assert (200, True) == (status, b'"cache":"hit"' in body)
            assert b"x-cache: hit" in head


async def test_answers_come_in_the_order_of_requests(gateway: Gateway, port: int) -> None:
    """Sent in one piece, the first has to be computed, and those behind it are known or for others to answer."""
    new = png(7)
    first = HEAD % len(new) + b"\r\n" + new
    async with peer_of(port) as peer:
        await peer.send(first + REQUEST + b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" + REQUEST)
        answers = [await peer.answer() for _ in range(4)]
        assert [b"miss", b"hit", None, b"hit"] == [
            found[1] if (found := re.search(rb"x-cache: (\w+)", head)) else None for _, head, _ in answers
        ]
        assert {200} == {status for status, _, _ in answers}
        await peer.send(REQUEST)
        assert 200 == (await peer.answer())[0]
    assert 2 == len(gateway.server.calls)


@pytest.mark.parametrize("query", [b"", b"?dimensions=99"], ids=["hit", "error"])
async def test_whoever_wants_the_connection_closed_gets_it_closed(port: int, query: bytes) -> None:
    """By a header, or by speaking HTTP/1.0."""
    for request in (
        REQUEST.replace(b"\r\nHost", b"\r\nConnection: close\r\nHost"),
        REQUEST.replace(b"HTTP/1.1", b"HTTP/1.0"),
    ):
        async with peer_of(port) as peer:
            await peer.send(request.replace(b"/embed", b"/embed" + query))
            answer = await peer.rest()
            assert 1 == answer.count(b"\r\nconnection: close\r\n")
            assert 1 == answer.count(b"HTTP/1.1 ")


async def test_what_is_no_http_behind_a_request_is_told_so(port: int) -> None:
    """A body that breaks off into nonsense is uvicorn's to refuse, and nothing else is answered."""
    async with peer_of(port) as peer:
        await peer.send(b"POST /embed HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n")
        answer = await peer.rest()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert 1 == answer.count(b"HTTP/1.1 ")
    async with peer_of(port) as peer:
        await peer.send(REQUEST)
        assert 200 == (await peer.answer())[0]


async def test_an_unexpected_error_is_answered_with_an_id(gateway: Gateway, port: int) -> None:
    """It is logged under that id, and counted once."""
    gateway.server.failure = RuntimeError("a defect")  # type: ignore[assignment]  # not of the tree
    new = png(7)
    async with peer_of(port) as peer:
        await peer.send(HEAD % len(new) + b"\r\n" + new)
        status, head, body = await peer.answer()
        assert (500, True) == (status, b"internal-error" in body)
        given = re.search(rb"x-request-id: (\w+)", head)
        assert given
        assert given[1] in body
    assert 'microtome_errors_total{error="internal-error"} 1.0' in gateway.metrics.exposition().decode()


async def test_an_answer_that_nobody_takes_waits(gateway: Gateway, port: int) -> None:
    """While a caller does not read, further requests of its connection wait, and are answered when it does."""
    async with peer_of(port, takes=4096) as peer:
        transport: Any = peer.writer.transport
        transport.pause_reading()
        sent = 0
        while transport.get_write_buffer_size() < 1 << 16 and sent < 100_000:
            peer.writer.write(REQUEST)
            sent += 1
            await asyncio.sleep(0)
        assert sent < 100_000, "the server took all requests, and kept all answers"
        transport.resume_reading()
        for _ in range(sent):
            assert 200 == (await peer.answer())[0]


@asynccontextmanager
async def behind_a_gate(decoders: ThreadPoolExecutor) -> AsyncIterator[tuple[Gateway, FakeCache, int]]:
    """A gateway that knows IMAGE, the cache whose answers are held back now, and a port."""
    far = FakeCache()
    async with gateway_with(decoders, cache=CoalescingCache(far), response_cache_bytes=0) as gateway:
        await gateway.client.post("/embed", content=IMAGE)
        far.gate.clear()
        far.asked.clear()
        async with listening(gateway.app, served(gateway)) as port:
            yield gateway, far, port


async def test_behind_a_look_further_requests_keep_their_order(decoders: ThreadPoolExecutor) -> None:
    """Whatever they want: the connection is read on while Redis is asked, and answered in turn."""
    new = png(7)
    async with behind_a_gate(decoders) as (_, far, port), peer_of(port) as peer:
        await peer.send(REQUEST, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", HEAD % len(new) + b"\r\n" + new, REQUEST)
        assert 1 == len(far.asked)
        far.gate.set()
        answers = [await peer.answer() for _ in range(4)]
        assert [b"hit", None, b"miss", b"hit"] == [
            found[1] if (found := re.search(rb"x-cache: (\w+)", head)) else None for _, head, _ in answers
        ]


async def test_who_goes_away_during_a_look_leaves_nothing_behind(decoders: ThreadPoolExecutor) -> None:
    """Known or not: nothing is held afterwards, and the next is answered."""
    new = png(7)
    async with behind_a_gate(decoders) as (gateway, far, port):
        for request in (REQUEST, HEAD % len(new) + b"\r\n" + new):
            async with peer_of(port) as peer:
                await peer.send(request)
            await asyncio.sleep(0.02)
        assert f"microtome_body_bytes_in_flight {len(IMAGE) + len(new)}.0" in gateway.metrics.exposition().decode()
        far.gate.set()
        await asyncio.wait_for(shows(gateway, "microtome_body_bytes_in_flight 0.0"), 10)
        async with peer_of(port) as peer:
            await peer.send(REQUEST)
            assert 200 == (await peer.answer())[0]


async def test_who_wants_the_connection_closed_gets_it_closed_after_a_look(decoders: ThreadPoolExecutor) -> None:
    """And is answered before."""
    async with behind_a_gate(decoders) as (_, far, port), peer_of(port) as peer:
        await peer.send(REQUEST.replace(b"\r\nHost", b"\r\nConnection: close\r\nHost"))
        far.gate.set()
        answer = await peer.rest()
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert 1 == answer.count(b"\r\nconnection: close\r\n")


async def test_a_caller_that_goes_away_cancels_its_work(gateway: Gateway, port: int) -> None:
    """Where the body of a request is read: a disconnection is seen."""
    gateway.server.gate.clear()
    new = png(8)
    async with peer_of(port) as peer:
        await peer.send(HEAD % len(new) + b"\r\n" + new)
        await gateway.server.called(2)
        assert "microtome_images_in_flight 1.0" in gateway.metrics.exposition().decode()
    await asyncio.wait_for(shows(gateway, 'route="/embed",status="499"'), 10)
    assert "microtome_images_in_flight 0.0" in gateway.metrics.exposition().decode()


def test_uvicorn_is_as_we_know_it() -> None:
    """What is overridden is there."""
    overridden = ("connection_made", "connection_lost", "on_body", "on_message_complete", "pause_writing")
    for name in (*overridden, "resume_writing", "timeout_keep_alive_handler", "send_400_response", "_should_upgrade"):
        assert callable(getattr(HttpToolsProtocol, name))


@pytest.mark.parametrize("kind", ["known", "looked up", "waited for", "computed"])
async def test_requests_leave_nothing_to_the_collector(decoders: ThreadPoolExecutor, kind: str) -> None:
    """Bodies above all: what goes in circles would stay until the collector comes by."""
    images = [png(seed) for seed in range(60)]
    requests = [HEAD % len(image) + b"\r\n" + image for image in images]
    options: dict[str, Any] = {}
    if kind in {"looked up", "waited for"}:
        cache = FakeCache()
        options = {"cache": cache if kind == "waited for" else CoalescingCache(cache), "response_cache_bytes": 0}
    async with gateway_with(decoders, **options) as gateway:
        for image in images[: 60 if kind != "computed" else 1]:
            await gateway.client.post("/embed", content=image)
        async with listening(gateway.app, served(gateway)) as port, peer_of(port) as peer:

            async def ask(some: list[bytes]) -> None:
                for request in some:
                    peer.writer.write(request)
                    assert 200 == (await peer.answer())[0]

            await ask(requests[:10])
            gc.collect()
            gc.disable()
            try:
                await ask(requests[10:])
                left = gc.collect()
            finally:
                gc.enable()
    assert left < 50, f"{left} objects of 50 requests"


async def test_a_length_may_begin_with_zeros(port: int) -> None:
    """With thousands of them too: Python refuses to read so many digits, which was an unexpected error."""
    async with peer_of(port) as peer:
        for zeros in (3, 5000):
            head = b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: %b%d\r\n\r\n" % (b"0" * zeros, len(IMAGE))
            await peer.send(head + IMAGE)
            assert 200 == (await peer.answer())[0]
        await peer.send(b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: %b\r\n\r\n" % (b"9" * 5000))
        assert 400 == (await peer.answer())[0]
