"""Weaviate's two modules for images, asked byte for byte as its Go clients ask: over a real socket.

The requests are those of weaviate's modules/{img2vec-neural,multi2vec-clip}/clients/*.go as Go's net/http writes them:
its header order, `Accept-Encoding: gzip`, and, for img2vec-neural, no Content-Type.
"""

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import uvicorn

from microtome.errors import ModelServerDown
from service.http.app import HttpOptions, http_app
from service.telemetry.metrics import Metrics
from tests.fakes.intake import intake_over
from tests.fakes.model_server import FakeModelServer, card
from tests.pictures import png
from tests.unit.service.http.conftest import LIMITS, Gateway, KeptLog, _nothing

PICTURE = b64encode(png(7)).decode()


def post(path: str, body: bytes, *, content_type: bool) -> bytes:
    """A POST as Go's client writes it."""
    kind = "Content-Type: application/json\r\n" if content_type else ""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: inference:8080\r\nUser-Agent: Go-http-client/1.1\r\n"
        f"Content-Length: {len(body)}\r\n{kind}Accept-Encoding: gzip\r\n\r\n"
    )
    return head.encode() + body


def get(path: str) -> bytes:
    """A GET as Go's client writes it."""
    head = f"GET {path} HTTP/1.1\r\nHost: inference:8080\r\nUser-Agent: Go-http-client/1.1\r\n"
    return f"{head}Accept-Encoding: gzip\r\n\r\n".encode()


class Connection:
    """One kept connection, as Go keeps it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, raw: bytes) -> tuple[int, bytes]:
        """Send a request and return status and body of its answer."""
        self._writer.write(raw)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        lengths = [int(line.partition(":")[2]) for line in head if line.lower().startswith("content-length:")]
        body = await self._reader.readexactly(lengths[0]) if lengths else b""
        return int(head[0].split()[1]), body

    def close(self) -> None:
        """Close it."""
        self._writer.close()


@pytest.fixture
async def server() -> FakeModelServer:
    """The model server behind the gateway."""
    return FakeModelServer(card())


@pytest.fixture
async def connection(server: FakeModelServer, decoders: ThreadPoolExecutor) -> AsyncIterator[Connection]:
    """A connection to the gateway."""
    metrics = Metrics()
    app = http_app(
        intake=intake_over(server, decoders, metrics, bodies=LIMITS),
        options=HttpOptions(limits=LIMITS, version="0"),
        metrics=metrics,
        log=KeptLog(),
        lifespan=_nothing,
    )
    gateway = uvicorn.Server(uvicorn.Config(app, port=0, http="httptools", log_level="warning", lifespan="off"))
    running = asyncio.create_task(gateway.serve())
    while not gateway.started:  # noqa: ASYNC110, uvicorn offers no event
        await asyncio.sleep(0)
    port = gateway.servers[0].sockets[0].getsockname()[1]
    opened = Connection(*await asyncio.open_connection("127.0.0.1", port))
    yield opened
    opened.close()
    gateway.should_exit = True
    await running


async def test_img2vec_is_answered_as_weaviate_reads_it(connection: Connection) -> None:
    """No Content-Type; the same id comes back, the raw vector and its dimension; again on the same connection."""
    for number in (1, 2):
        identity = f"1f2d3c4b-0000-4000-8000-000000000000_{number}"
        body = json.dumps({"id": identity, "image": PICTURE}, separators=(",", ":")).encode()
        status, answer = await connection.ask(post("/vectors", body, content_type=False))
        told = json.loads(answer)
        assert (200, identity, told["dim"]) == (status, told["id"], len(told["vector"]))
        assert told["dim"] > 0
    assert 200 == (await connection.ask(post("/vectors/", body, content_type=False)))[0]


async def test_clip_answers_several_images_in_their_order(connection: Connection) -> None:
    """A vector for each, none for texts; equal to what img2vec says of the same image."""
    pictures = [b64encode(png(grey)).decode() for grey in (1, 200)]
    body = json.dumps({"images": pictures}).encode()
    status, answer = await connection.ask(post("/vectorize", body, content_type=True))
    told = json.loads(answer)
    assert (200, [], 2) == (status, told["textVectors"], len(told["imageVectors"]))
    for picture, vector in zip(pictures, told["imageVectors"], strict=True):
        body = json.dumps({"id": "a_0", "image": picture}).encode()
        assert vector == json.loads((await connection.ask(post("/vectors", body, content_type=False)))[1])["vector"]


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/vectors", {"id": "a_0", "image": b64encode(b"no image").decode()}, "Image 0: Expected an image"),
        ("/vectors", {"id": "a_0", "image": "%%%"}, "Expected base64"),
        ("/vectors", {"id": "a_0"}, "received no image"),
        ("/vectorize", {"texts": ["a cat"]}, "embeds images only"),
        ("/vectorize", {"texts": ["a cat"], "images": [PICTURE]}, "embeds images only"),
        ("/vectorize", {}, "received neither"),
    ],
)
async def test_errors_are_json_with_one_sentence(
    connection: Connection, path: str, body: dict[str, object], words: str
) -> None:
    """Weaviate parses an answer before it looks at the status, and shows `error`."""
    status, answer = await connection.ask(post(path, json.dumps(body).encode(), content_type=False))
    assert 400 == status
    assert words in json.loads(answer)["error"]


async def test_readiness_is_what_weaviate_waits_for(connection: Connection, server: FakeModelServer) -> None:
    """204 without a body when the model answers, 503 when it does not; the process is alive in both cases."""
    assert (204, b"") == await connection.ask(get("/.well-known/ready"))
    server.failure = ModelServerDown("The model server cannot be reached.")
    assert 503 == (await connection.ask(get("/.well-known/ready")))[0]
    assert (204, b"") == await connection.ask(get("/.well-known/live"))
    status, answer = await connection.ask(get("/meta"))
    assert (200, "toy") == (status, json.loads(answer)["model"])


async def test_a_model_server_that_is_gone_is_told_in_weaviates_words(gateway: Gateway) -> None:
    """503 and a sentence, so that Weaviate reports it instead of a parse error."""
    gateway.server.failure = ModelServerDown("The model server cannot be reached.")
    answer = await gateway.client.post("/vectors", content=json.dumps({"id": "a", "image": PICTURE}))
    assert 503 == answer.status_code
    assert answer.json()["error"]
