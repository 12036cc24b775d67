"""POST /embed over real sockets: which status, media type or problem, and cache result each kind of request gets."""

import asyncio
import json
import re
from base64 import b64encode
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest

from service.auth import Keyring, read_keys
from service.core.ports import VectorCache
from tests.fakes.vector_cache import FakeCache
from tests.pictures import png
from tests.unit.service.http.conftest import gateway_with
from tests.unit.service.http.test_disconnects import listening
from tests.unit.service.http.test_sockets import served
from tests.unit.service.test_auth import line

IMAGE = png()
JSON_BODY = json.dumps({"image": b64encode(IMAGE).decode()}).encode()
FORM = b'--x\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\n' + IMAGE + b"\r\n--x--\r\n"
CHUNKED = "Transfer-Encoding: chunked"

HIT = "200 application/json hit"
MISS = "200 application/json miss"
BAD = "400 bad-request"


def chunks(body: bytes) -> bytes:
    """A body as HTTP/1.1 sends what has no length."""
    return b"%x\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (10, body[:10], len(body) - 10, body[10:])


class Case(NamedTuple):
    """One request, for an image whose vectors are cached, and what it gets."""

    expected: str
    target: str = "/embed"
    lines: Sequence[str] = ()
    body: bytes = IMAGE
    method: str = "POST"

    def raw(self) -> bytes:
        """The request as it goes over the wire."""
        length = [] if CHUNKED in self.lines else [f"Content-Length: {len(self.body)}"]
        close = [] if "Connection: close" in self.lines else ["Connection: close"]
        head = [f"{self.method} {self.target} HTTP/1.1", "Host: x", *length, *close, *self.lines, "", ""]
        return "\r\n".join(head).encode("latin-1") + self.body


QUERIES = {
    **dict.fromkeys(
        (
            *("", "normalize=true", "dimensions=2", "encoding=base64", "output=mean&output=corner", "output=all"),
            *("output=c%6Frner", "version=1", "model=toy", "cache=use", "on_error=skip"),
            "normalize=true&dimensions=1",
        ),
        HIT,
    ),
    **dict.fromkeys(("cache=refresh", "cache=bypass"), MISS),
    **dict.fromkeys(
        (
            *("nix=1", "dimensions=99", "encoding=int8", "version=x", "model=", "normalize=1&normalize=1"),
            "%66oo=%FF",
        ),
        BAD,
    ),
    "model=nix": "404 unknown-model",
    "output=nix": "404 unknown-output",
    "version=9": "404 unknown-version",
    "encoding=float32": "200 application/octet-stream hit",
}
HEADERS = {
    "Accept: text/html": "406 not-acceptable",
    **{
        f"Accept: {form}": f"200 {form} hit"
        for form in ("application/octet-stream", "application/x-npy", "application/zip", "application/msgpack")
    },
    **dict.fromkeys(("Cache-Control: no-cache", "Cache-Control: NO-CACHE, x"), MISS),
    **dict.fromkeys(
        (
            *("Cache-Control: max-age=0", "X-Request-Timeout: 5", "Content-Encoding: identity"),
            *("Content-Type: image/jpeg", "Content-Type: application/json", "X-Request-ID: mine"),
            *("X-Request-ID: \x80", "Connection: close"),
        ),
        HIT,
    ),
    **dict.fromkeys(
        (
            *("X-Request-Timeout: soon", "X-Request-Timeout: ", "Content-Encoding: gzip"),
            "Content-Type: multipart/form-data",
        ),
        BAD,
    ),
    "Expect: 100-continue": "100 " + HIT,
}
CASES = [
    Case(HIT),
    *(Case(expected, f"/embed?{query}") for query, expected in QUERIES.items()),
    *(Case(expected, lines=[header]) for header, expected in HEADERS.items()),
    Case(HIT, lines=["Accept: text/html", "Accept: */*"]),
    Case(HIT, lines=[CHUNKED], body=chunks(IMAGE)),
    Case(HIT, lines=[CHUNKED, "Content-Type: application/json"], body=chunks(JSON_BODY)),
    Case(HIT, body=JSON_BODY),
    Case(HIT, "/embed?normalize=true", body=JSON_BODY),
    Case(HIT, body=JSON_BODY.replace(b"{", b'{"normalize": true, ', 1)),
    Case(BAD, body=JSON_BODY.replace(b"{", b'{"nix": true, ', 1)),
    Case(HIT, lines=["Content-Type: multipart/form-data; boundary=x"], body=FORM),
    Case(BAD, lines=["Content-Type: multipart/form-data; boundary=x"], body=FORM[9:]),
    Case(BAD, body=b""),
    Case("422 not-an-image", body=b"no image"),
    Case("422 broken-image", body=IMAGE[:-30]),
    Case("413 image-too-large", body=IMAGE + bytes(5_000)),
    Case("413 image-too-large", body=bytes(20_000)),
    *(Case("405 method-not-allowed", body=b"", method=method) for method in ("GET", "OPTIONS", "PUT", "DELETE")),
    Case("405 application/problem+json", body=b"", method="HEAD"),
    Case("404 not-found", "/embed/"),
    Case("404 not-found", "/embed%3Fnormalize=true"),
    Case("404 not-found", "/Embed"),
    Case(HIT, "/%65mbed"),
]


async def answer(port: int, raw: bytes) -> str:
    """Send one request over a connection of its own, and sum up what comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(raw)
    try:
        received = (await asyncio.wait_for(reader.read(), 10)).decode("latin-1")
    finally:
        writer.close()
    continued, received = ("100 ", received[25:]) if received.startswith("HTTP/1.1 100 ") else ("", received)
    problem = re.search(r'"urn:microtome:problem:([\w-]+)"', received)
    media_type = re.search(r"\r\ncontent-type: (\S+)", received)
    cache = re.search(r"\r\nx-cache: (\w+)", received)
    words = [received.split()[1], problem[1] if problem else media_type and media_type[1], cache and cache[1]]
    return continued + " ".join(word for word in words if word)


@pytest.mark.parametrize("cache", [None, FakeCache()], ids=["memory", "remote"])
async def test_what_each_request_gets(decoders: ThreadPoolExecutor, cache: VectorCache | None) -> None:
    """Three times each, since the second response may be cached and the third may come from that cache."""
    async with gateway_with(decoders, cache=cache) as gateway, listening(gateway.app, served(gateway)) as port:
        await gateway.client.post("/embed?output=all", content=IMAGE)
        for case in CASES:
            assert [case.expected] * 3 == [await answer(port, case.raw()) for _ in range(3)], case


async def test_keys_are_asked_for_and_counted(decoders: ThreadPoolExecutor) -> None:
    """No key, a wrong one, one in either header."""
    keyring = Keyring(read_keys([line("search", "s3cret-of-search")]))
    async with (
        gateway_with(decoders, keyring=keyring) as gateway,
        listening(gateway.app, served(gateway)) as port,
    ):
        for lines, expected in (
            ((), ["401 unauthenticated"] * 3),
            (("X-API-Key: no",), ["401 unauthenticated"] * 3),
            (("Authorization: Bearer s3cret-of-search",), [MISS, HIT, HIT]),
            (("X-API-Key: s3cret-of-search",), [HIT] * 3),
        ):
            case = Case("", lines=lines)
            assert expected == [await answer(port, case.raw()) for _ in range(3)], case
        assert 'key_requests_total{key="search"} 6.0' in gateway.metrics.exposition().decode()
