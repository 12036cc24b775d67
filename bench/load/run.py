"""Closed loop and open loop over one set of connections, and their requests.

Request heads and bodies are made without copies: the image's bytes are shared, only a few bytes are new. Decoders
ignore bytes after the end of a JPEG, and the cache key covers them: eight bytes defeat every cache.
"""

import asyncio
import itertools
import os
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import httptools

from bench.load.plan import Load, Outcome

_GRACE_SECONDS = 60.0
_PERCENTILES = (50.0, 90.0, 99.0, 99.9, 100.0)

_BOUNDARY = b"microtome-bench-boundary"
_PART = b"--" + _BOUNDARY + b'\r\nContent-Disposition: form-data; name="image"; filename="x.jpg"\r\n\r\n'
_END = b"--" + _BOUNDARY + b"--\r\n"

Pieces = list[bytes]
"""Bytes to be written one after the other."""

Answered = Callable[["Connection", int, int], None]
"""Called with the connection, the status (0: the connection broke) and the body's bytes."""


class Connection(asyncio.Protocol):
    """An HTTP/1.1 client connection; calls `answered` when it is free again or has broken."""

    def __init__(self, answered: Answered) -> None:
        self._answered = answered
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._received = 0
        self._busy = False

    def send(self, request: Pieces) -> None:
        """Write one request."""
        self._busy = True
        self._received = 0
        self._parser = httptools.HttpResponseParser(self)
        if self._transport is None or self._transport.is_closing():
            self._end(0)
        else:
            self._transport.writelines(request)

    def close(self) -> None:
        """Close it."""
        self._busy = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asyncio's."""
        # A cast, since uvloop's transports are no subclasses.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Asyncio's."""
        self._parser.feed_data(data)

    def connection_lost(self, _: Exception | None) -> None:
        """Asyncio's: a request in flight is lost with it."""
        if self._busy:
            self._end(0)

    def on_body(self, body: bytes) -> None:
        """httptools': a piece of the answer."""
        self._received += len(body)

    def on_message_complete(self) -> None:
        """httptools': the answer is complete."""
        self._end(self._parser.get_status_code())

    @property
    def usable(self) -> bool:
        """Whether another request can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def _end(self, status: int) -> None:
        self._busy = False
        self._answered(self, status, self._received)


class Run:
    """One load, from the first request to the last answer."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._requests = requests(load)
        self._idle: deque[Connection] = deque()
        self._opened = 0
        self._under_way: dict[Connection, float] = {}
        self._waiting: deque[tuple[float, Pieces]] = deque()
        self._statuses: Counter[str] = Counter()
        self._latencies: list[float] = []
        self._bytes = 0
        self._end = 0.0
        self._done = asyncio.Event()
        self._replacing: set[asyncio.Future[None]] = set()

    async def outcome(self) -> Outcome:
        """Put the load on, and wait for the requests in flight.

        Raises:
            TimeoutError: The server left requests unanswered for a minute.
        """
        # Opened before the clock starts, since the time to accept is not measured.
        await asyncio.gather(*(self._open() for _ in range(self._load.connections)))
        cpu, begin = time.process_time(), time.perf_counter()
        self._end = begin + self._load.seconds
        await (self._closed() if self._load.mode == "closed" else self._paced(begin))
        if self._under_way or self._waiting:
            await asyncio.wait_for(self._done.wait(), self._load.seconds + _GRACE_SECONDS)
        seconds = time.perf_counter() - begin
        cpu = time.process_time() - cpu
        for connection in self._idle:
            connection.close()
        return Outcome(
            statuses=dict(self._statuses),
            seconds=seconds,
            latency=percentiles(self._latencies),
            images=self._statuses["200"] * self._load.per_request,
            bytes_received=self._bytes,
            cpu_seconds=cpu,
        )

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: Connection(self._answered), "127.0.0.1", self._load.port)
        self._idle.append(connection)

    async def _closed(self) -> None:
        while self._idle:
            self._send(self._idle.popleft(), time.perf_counter(), next(self._requests))
        await asyncio.sleep(self._load.seconds)

    async def _paced(self, begin: float) -> None:
        """Send at a fixed rate; latency counts from when a request was due, so that a stall counts in full."""
        for number in range(int(self._load.rate * self._load.seconds)):
            due = begin + number / self._load.rate
            if (early := due - time.perf_counter()) > 0:
                await asyncio.sleep(early)
            elif number % 64 == 0:
                await asyncio.sleep(0)  # behind the schedule: answers must still be read
            if self._idle:
                self._send(self._idle.popleft(), due, next(self._requests))
            else:
                self._waiting.append((due, next(self._requests)))

    def _send(self, connection: Connection, due: float, request: Pieces) -> None:
        self._under_way[connection] = due
        self._done.clear()
        connection.send(request)

    def _answered(self, connection: Connection, status: int, received: int) -> None:
        now = time.perf_counter()
        due = self._under_way.pop(connection)
        self._statuses[str(status)] += 1
        self._bytes += received
        if status == 200:
            self._latencies.append(now - due)
        # In the next tick: the parser that called this must return before it is replaced.
        asyncio.get_running_loop().call_soon(self._next, connection)

    def _next(self, connection: Connection) -> None:
        now = time.perf_counter()
        if not connection.usable:
            self._replace()
            return
        if self._waiting:
            self._send(connection, *self._waiting.popleft())
        elif self._load.mode == "closed" and now < self._end:
            self._send(connection, now, next(self._requests))
        else:
            self._idle.append(connection)
        self._settle()

    def _settle(self) -> None:
        # Requests that wait are left alone when no connection is left to send them.
        if not self._under_way and (not self._waiting or not self._idle):
            self._done.set()

    def _replace(self) -> None:
        async def opened() -> None:
            try:
                await self._open()
            except OSError:
                self._settle()
                return
            self._next(self._idle.pop())

        task = asyncio.ensure_future(opened())
        self._replacing.add(task)  # the loop itself keeps only weak references
        task.add_done_callback(self._replacing.discard)


def bodies(load: Load) -> Iterator[Pieces]:
    """Yield images without end."""
    images = [Path(path).read_bytes() for path in load.images]
    numbers = _zipf(load) if load.draw == "zipf" else itertools.count()
    # Two runs of this process, or of two processes, never send the same cold body.
    salt = os.urandom(8) if load.draw == "cold" else load.series.to_bytes(8, "big")

    for number in numbers:
        yield [images[number % len(images)], b"" if load.draw == "warm" else salt + number.to_bytes(8, "big")]


def requests(load: Load) -> Iterator[Pieces]:
    """Yield whole requests, head and body, without end."""
    images = bodies(load)
    if load.per_request == 1:
        for body in images:
            yield [_head(load, body, "application/octet-stream"), *body]
    while True:
        body = [piece for _ in range(load.per_request) for piece in (_PART, *next(images), b"\r\n")] + [_END]
        yield [_head(load, body, f"multipart/form-data; boundary={_BOUNDARY.decode()}"), *body]


def _head(load: Load, body: Pieces, content_type: str) -> bytes:
    length = sum(map(len, body))
    lines = [f"Host: 127.0.0.1:{load.port}", f"Content-Type: {content_type}", f"Content-Length: {length}"]
    return "\r\n".join([f"POST {load.path} HTTP/1.1", *lines, "\r\n"]).encode()


def _zipf(load: Load) -> Iterator[int]:
    # Seeded: two contestants of a comparison see the same sequence.
    chance = random.Random(load.series)
    weights = list(itertools.accumulate(1 / rank for rank in range(1, load.population + 1)))
    while True:
        yield from chance.choices(range(load.population), cum_weights=weights, k=1000)


def percentiles(latencies: list[float]) -> dict[str, float]:
    """Return the latencies at a few percentiles, by nearest rank; empty when there are none."""
    ranked = sorted(latencies)
    return {f"p{p:g}": ranked[max(0, -int(-len(ranked) * p // 100) - 1)] for p in _PERCENTILES if ranked}
