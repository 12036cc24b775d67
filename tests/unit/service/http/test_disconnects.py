"""What only a real connection shows: bodies that do not come, callers that go away, a port for operators."""

import asyncio
import select
import socket
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.types import ASGIApp

from service.http.bodies import BodyLimits
from service.http.health import operations_server
from tests.fakes.intake import intake_over
from tests.pictures import png
from tests.unit.service.http.conftest import LIMITS, Gateway, gateway_with
from tests.unit.service.http.test_embed import problem


@asynccontextmanager
async def listening(app: ASGIApp, http: Any = "httptools", keep_alive: Any = 5) -> AsyncIterator[int]:
    """Serve the application, over uvicorn's connections or others, and return the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(
            uvicorn.Config(app, http=http, log_level="warning", lifespan="off", timeout_keep_alive=keep_alive)
        )
        serving = asyncio.create_task(server._serve(sockets=[listener]))
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await serving


@pytest.fixture
async def impatient(decoders: ThreadPoolExecutor) -> AsyncIterator[Gateway]:
    """The application, which waits for a tenth of a second for the next piece of a body."""
    async with gateway_with(decoders, limits=BodyLimits(5_000, 9_000, 3, max_pause=0.1)) as gateway:
        yield gateway


async def shows(gateway: Gateway, line: str) -> None:
    """Wait until the metrics have a line."""
    while line not in gateway.metrics.exposition().decode():  # noqa: ASYNC110, what an operator would do
        await asyncio.sleep(0.01)


async def test_a_body_that_does_not_come_is_cut_off(impatient: Gateway) -> None:
    """After a pause too long the answer is 408, its bytes are given back, and the connection is closed."""
    async with listening(impatient.app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: 4000\r\n\r\n\xff\xd8")
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"urn:microtome:problem:body-too-slow" in answer
    assert "microtome_body_bytes_in_flight 0.0" in impatient.metrics.exposition().decode()


async def test_a_body_in_many_pieces_has_to_come_within_the_deadline(decoders: ThreadPoolExecutor) -> None:
    """A caller that always sends a little more is not waited for longer than any other."""

    def trickle(port: int) -> bytes:
        # Not asyncio, which drops an answer that it has not read when the next piece meets a closed connection.
        with socket.create_connection(("127.0.0.1", port), timeout=10) as caller:
            caller.sendall(
                b"POST /embed HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 4000\r\n\r\n\xff\xd8"
            )
            while not select.select([caller], [], [], 0.02)[0]:
                with suppress(OSError):
                    caller.send(b"a")
            return caller.recv(100)

    async with gateway_with(decoders, deadline=0.3) as gateway, listening(gateway.app) as port:
        assert (await asyncio.to_thread(trickle, port)).startswith(b"HTTP/1.1 504 ")


async def test_the_callers_deadline_holds_for_its_body_too(gateway: Gateway) -> None:
    """504 after X-Request-Timeout, although a longer pause is allowed."""
    async with listening(gateway.app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = b"POST /embed HTTP/1.1\r\nHost: x\r\nX-Request-Timeout: 0.1\r\nContent-Length: 4000\r\n"
        writer.write(head + b"Connection: close\r\n\r\n\xff\xd8")
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
    assert answer.startswith(b"HTTP/1.1 504 ")


async def test_a_caller_that_goes_away_cancels_its_work(gateway: Gateway) -> None:
    """The inference is given up while it is still held back; nothing stays in flight."""
    gateway.server.gate.clear()
    async with listening(gateway.app) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        body = png()
        head = f"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await gateway.server.called(1)
        assert "microtome_images_in_flight 1.0" in gateway.metrics.exposition().decode()
        writer.close()
        await asyncio.wait_for(shows(gateway, 'route="/embed",status="499"'), 10)
        assert "microtome_images_in_flight 0.0" in gateway.metrics.exposition().decode()
    assert not gateway.server.gate.is_set()


async def test_operators_have_a_port_of_their_own(decoders: ThreadPoolExecutor) -> None:
    """There are metrics and probes there, without a key, and the metrics are gone from the other."""
    async with gateway_with(decoders, show_metrics=False) as gateway:
        intake = intake_over(gateway.server, decoders, gateway.metrics, bodies=LIMITS)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        async with (
            operations_server(intake, gateway.metrics, {}, host="127.0.0.1", port=port, shared=False),
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
        ):
            for path in ("/metrics", "/livez", "/readyz", "/health", "/healthz"):
                # Over one connection: the body that HEAD is spared must not be read as the next answer.
                answers = [await client.request(method, path) for method in ("GET", "HEAD", "GET")]
                assert [200] * 3 == [answer.status_code for answer in answers], path
                assert [True, False, True] == [bool(answer.content) for answer in answers], path
                assert "default-src 'none'" in answers[0].headers["content-security-policy"]
            assert (404, "not-found") == problem(await client.post("/embed", content=png()))
        assert 404 == (await gateway.client.get("/metrics")).status_code
        assert "metrics" not in (await gateway.client.get("/")).json()


@pytest.mark.parametrize("seconds", ["0.05", "1e-3"])
async def test_the_caller_sets_a_shorter_deadline(gateway: Gateway, seconds: str) -> None:
    """504 after X-Request-Timeout, while the server's own deadline is far away."""
    gateway.server.gate.clear()
    answer = await gateway.client.post("/embed", content=png(), headers={"X-Request-Timeout": seconds})
    assert (504, "deadline-exceeded") == problem(answer)
    assert float(seconds) == float(answer.json()["detail"].split()[3])


@pytest.mark.parametrize("seconds", ["0", "-1", "soon", "inf", "nan", ""])
async def test_a_deadline_is_a_number_of_seconds(gateway: Gateway, seconds: str) -> None:
    """What is no such number is refused, not ignored."""
    answer = await gateway.client.post("/embed", content=png(), headers={"X-Request-Timeout": seconds})
    assert (400, "bad-request") == problem(answer)
    assert "X-Request-Timeout" in answer.json()["detail"]
