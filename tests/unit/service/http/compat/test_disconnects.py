"""Contracts of others over real connections: bodies that do not come, and callers that go away."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor

from service.http.bodies import BodyLimits
from tests.unit.service.http.compat.test_handler import PATH, body
from tests.unit.service.http.conftest import Gateway, gateway_with
from tests.unit.service.http.test_disconnects import listening, shows


def request(content: bytes, length: int) -> bytes:
    """Write a request that announces so many bytes."""
    return f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode() + content


async def test_a_body_that_does_not_come_is_cut_off(decoders: ThreadPoolExecutor) -> None:
    """After a pause too long the answer is 408 in the contract's words, and the body's bytes are given back."""
    limits = BodyLimits(5_000, 9_000, 3, max_pause=0.1)
    async with gateway_with(decoders, limits=limits) as gateway, listening(gateway.app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request(b'{"input":', 4000))
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert "body_too_slow" == json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"]
        assert "microtome_body_bytes_in_flight 0.0" in gateway.metrics.exposition().decode()


async def test_a_caller_that_goes_away_cancels_its_work(gateway: Gateway) -> None:
    """The inference is given up while it is still held back; neither its image nor its bytes stay in flight."""
    gateway.server.gate.clear()
    content = json.dumps(body()).encode()
    async with listening(gateway.app) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request(content, len(content)))
        await gateway.server.called(1)
        # JSON is held three times over while it is read.
        assert f"microtome_body_bytes_in_flight {3.0 * len(content)}" in gateway.metrics.exposition().decode()
        writer.close()
        await asyncio.wait_for(shows(gateway, f'route="{PATH}",status="499"'), 10)
        text = gateway.metrics.exposition().decode()
    assert "microtome_images_in_flight 0.0" in text
    assert "microtome_body_bytes_in_flight 0.0" in text
