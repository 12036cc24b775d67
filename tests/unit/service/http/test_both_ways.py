"""`POST /embed` is answered where it is read, past the framework, and by the framework: nobody can tell them apart."""

import asyncio
import json
import re
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

import pytest
from starlette.types import ASGIApp

from service.auth import Keyring, read_keys
from service.core.ports import VectorCache
from service.http.arrived import Arrived
from service.http.connection import connection
from tests.fakes.model_server import card
from tests.fakes.vector_cache import FakeCache
from tests.pictures import png
from tests.unit.service.http.conftest import Gateway, gateway_with
from tests.unit.service.http.test_authentication import KEY
from tests.unit.service.http.test_connections import listening
from tests.unit.service.test_auth import line

IMAGE = png()
JSON_BODY = json.dumps({"image": b64encode(IMAGE).decode()}).encode()
FORM = b'--x\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\n' + IMAGE + b"\r\n--x--\r\n"
MULTIPART = "Content-Type: multipart/form-data; boundary=x"
CHUNKED = "Transfer-Encoding: chunked"


def chunks(body: bytes) -> bytes:
    """A body as HTTP/1.1 sends what has no length."""
    return b"%x\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (10, body[:10], len(body) - 10, body[10:])


class Case(NamedTuple):
    """One request: method, target, further lines of the head, body."""

    method: str = "POST"
    target: str = "/embed"
    lines: Sequence[str] = ()
    body: bytes = IMAGE

    def raw(self) -> bytes:
        """The request as it goes over the wire."""
        length = [] if CHUNKED in self.lines else [f"Content-Length: {len(self.body)}"]
        head = [f"{self.method} {self.target} HTTP/1.1", "Host: x", *length, *self.lines, "", ""]
        return "\r\n".join(head).encode("latin-1") + self.body


CASES = [
    Case(),
    *(
        Case(target=f"/embed?{query}")
        for query in (
            *("normalize=true", "dimensions=2", "encoding=base64", "output=mean&output=corner", "output=all"),
            *(
                "output=c%6Frner",
                "version=1",
                "model=toy",
                "cache=refresh",
                "cache=bypass",
                "cache=use",
                "on_error=skip",
            ),
            *("nix=1", "model=nix", "output=nix", "dimensions=99", "encoding=int8", "version=9", "version=x", "model="),
            *("normalize=1&normalize=1", "encoding=float32", "%66oo=%FF", "", "normalize=true&dimensions=1"),
        )
    ),
    *(
        Case(lines=[f"Accept: {form}"])
        for form in (
            "application/octet-stream",
            "application/x-npy",
            "application/zip",
            "application/msgpack",
            "text/html",
        )
    ),
    Case(lines=["Accept: text/html", "Accept: */*"]),
    *(
        Case(lines=[each])
        for each in (
            *("Cache-Control: no-cache", "Cache-Control: NO-CACHE, x", "Cache-Control: max-age=0"),
            *("X-Request-Timeout: 5", "X-Request-Timeout: soon", "X-Request-Timeout: "),
            *("Content-Encoding: gzip", "Content-Encoding: identity", "Expect: 100-continue"),
            *("Content-Type: image/jpeg", "Content-Type: application/json", "X-Request-ID: mine", "X-Request-ID: \x80"),
            *("Connection: close", "Content-Type: multipart/form-data"),
        )
    ),
    Case(lines=[CHUNKED], body=chunks(IMAGE)),
    Case(lines=[CHUNKED, "Content-Type: application/json"], body=chunks(JSON_BODY)),
    Case(body=JSON_BODY),
    Case(target="/embed?normalize=true", body=JSON_BODY),
    Case(body=JSON_BODY.replace(b"{", b'{"normalize": true, ', 1)),
    Case(body=JSON_BODY.replace(b"{", b'{"nix": true, ', 1)),
    Case(lines=[MULTIPART], body=FORM),
    Case(lines=[MULTIPART], body=FORM[9:]),
    Case(body=b""),
    Case(body=b"no image"),
    Case(body=IMAGE[:-30]),
    Case(body=IMAGE + bytes(5_000)),
    Case(body=bytes(20_000)),
    *(Case(method, body=b"") for method in ("GET", "HEAD", "OPTIONS", "PUT", "DELETE")),
    Case(target="/embed/"),
    Case(target="/embed%3Fnormalize=true"),
    Case(target="/%65mbed"),
    Case(target="/Embed"),
]
TIMES = 3
"""A miss, a hit that is written and kept, and what was kept."""

NOT_THE_SAME = re.compile(rb"(?im)^(date|server-timing|x-request-id): .*\r\n")
COUNTS = re.compile(r"^microtome_(?:\w+_total|\w+_count)\{?.*$", re.MULTILINE)


async def answer(port: int, case: Case) -> bytes:
    """Send one request over a connection of its own and return all that comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(case.raw().replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
    try:
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()


@asynccontextmanager
async def both_ways(
    decoders: ThreadPoolExecutor,
    keyring: Keyring | None = None,
    cache: Callable[[], VectorCache | None] = lambda: None,
) -> AsyncIterator[list["Way"]]:
    """Three gateways of the same kind: over our connections, over uvicorn's, and asked through the framework."""
    async with AsyncExitStack() as stack:
        gateways = [
            await stack.enter_async_context(gateway_with(decoders, keyring=keyring, cache=cache())) for _ in range(3)
        ]
        apps: list[ASGIApp] = [gateways[0].app, gateways[1].app, gateways[2].app.framework]
        kinds: list[Any] = [connection(gateways[0].app.at_once), "httptools", "httptools"]
        ports = [await stack.enter_async_context(listening(app, kind)) for app, kind in zip(apps, kinds, strict=True)]
        yield [Way(gateway, port) for gateway, port in zip(gateways, ports, strict=True)]


class Way(NamedTuple):
    """A gateway, and the port that it is asked at."""

    gateway: Gateway
    port: int

    async def answers(self, case: Case) -> list[bytes]:
        """Ask several times, and return what nothing but the request and the time decide."""
        return [NOT_THE_SAME.sub(b"", await answer(self.port, case)) for _ in range(TIMES)]

    def counts(self) -> list[str]:
        """All counts in the metrics."""
        return sorted(COUNTS.findall(self.gateway.metrics.exposition().decode()))


@pytest.mark.parametrize("cache", [lambda: None, FakeCache], ids=["memory", "a cache that is waited for"])
async def test_both_ways_give_the_same_answers_and_counts(
    decoders: ThreadPoolExecutor, cache: Callable[[], VectorCache | None]
) -> None:
    """Options, forms of bodies and answers, errors, methods: byte for byte, and in every counter."""
    async with both_ways(decoders, cache=cache) as (*others, framework):
        for case in CASES:
            expected = await framework.answers(case)
            assert all(got.startswith(b"HTTP/1.1 ") for got in expected), case
            for way in others:
                assert expected == await way.answers(case), case
                assert framework.counts() == way.counts(), case
        assert all(framework.gateway.server.calls == way.gateway.server.calls for way in others)


async def test_both_ways_ask_for_keys(decoders: ThreadPoolExecutor) -> None:
    """No key, a wrong one, one in either header: the same answers, and the same counts by name."""
    keyring = Keyring(read_keys([line("search", "s3cret-of-search")]))
    async with both_ways(decoders, keyring) as (*others, framework):
        for lines in (
            [],
            [f"Authorization: {KEY['Authorization']}"],
            ["X-API-Key: s3cret-of-search"],
            ["X-API-Key: no"],
        ):
            case = Case(lines=lines)
            expected = await framework.answers(case)
            assert all([expected == await way.answers(case) for way in others]), case
        assert all(framework.counts() == way.counts() for way in others)
        assert any('key_requests_total{key="search"} 6.0' in each for each in framework.counts())


async def test_what_was_kept_is_not_given_for_another_version(gateway: Gateway) -> None:
    """A new version answers for itself, from the first request on."""
    for _ in range(TIMES):
        await gateway.client.post("/embed?output=corner", content=IMAGE)
    gateway.server.current = card(2)
    answers = [await gateway.client.post("/embed?output=corner", content=IMAGE) for _ in range(TIMES)]
    assert [("2", "miss"), ("2", "hit"), ("2", "hit")] == [
        (each.headers["x-model-version"], each.headers["x-cache"]) for each in answers
    ]
    assert all(each.json()["embeddings"][0]["vector"][-1] == 2 for each in answers)


async def test_what_was_kept_is_given_while_there_is_room_for_nothing_else(gateway: Gateway) -> None:
    """A hit takes no place among the images in flight, so it is answered when all places are taken."""
    for _ in range(TIMES):
        await gateway.client.post("/embed", content=IMAGE)
    gateway.server.gate.clear()
    others = [asyncio.create_task(gateway.client.post("/embed", content=png(seed))) for seed in range(1, 5)]
    await gateway.server.called(4)
    assert 429 == (await gateway.client.post("/embed", content=png(9))).status_code
    assert "hit" == (await gateway.client.post("/embed", content=IMAGE)).headers["x-cache"]
    gateway.server.gate.set()
    assert {200} == {each.status_code for each in await asyncio.gather(*others)}


@pytest.mark.parametrize("read", [True, False])
async def test_a_body_that_is_still_coming_is_waited_for_where_the_look_stopped(read: bool) -> None:
    """A message that was not there at the first look is received as from the server; unread, nothing is left behind."""
    coming = asyncio.Event()

    async def receive() -> dict[str, object]:
        await coming.wait()
        return {"type": "http.request", "body": b"image", "more_body": False}

    arrived = Arrived(receive)
    assert arrived.whole_body() is None
    if read:
        asyncio.get_running_loop().call_soon(coming.set)
        assert b"image" == (await arrived())["body"]
        assert b"image" == (await arrived())["body"]
    arrived.close()
    assert not coming._waiters


async def test_a_wait_that_was_begun_can_be_cancelled() -> None:
    """Timers cancel who waits for a body, and the wait ends as if it had begun with them."""

    async def receive() -> dict[str, object]:
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")

    arrived = Arrived(receive)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await arrived()
