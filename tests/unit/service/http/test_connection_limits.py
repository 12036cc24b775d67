"""No caller brings the gateway down, or reaches it unseen, by what comes before, between and behind requests."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from service.http import connection_limits
from tests.unit.service.http.conftest import Gateway
from tests.unit.service.http.test_disconnects import listening
from tests.unit.service.http.test_sockets import HEAD, IMAGE, REQUEST, Peer, peer_of, served

OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n"
OPENING = b"POST /embed HTTP/1.1\r\nHost: x\r\n"


async def refused(peer: Peer, status: int, kind: bytes) -> None:
    """Read one answer, a problem, and the end of the connection."""
    found, head, body = await peer.answer()
    assert (status, True) == (found, b'"urn:microtome:problem:' + kind + b'"' in body)
    assert b"content-type: application/problem+json\r\n" in head
    assert b"connection: close\r\n" in head
    assert not await peer.rest()


async def answers(peer: Peer, number: int) -> list[int]:
    """Read so many answers, and return their statuses."""
    return [(await peer.answer())[0] for _ in range(number)]


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (OPENING, b"X-Nothing: %b\r\n" % (b"a" * 1000)),
        (OPENING + b"X-Nothing: ", b"a" * 1000),
        (b"POST /embed?", b"a" * 1000),
        (OPENING + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n", b"X-Nothing: %b\r\n" % (b"a" * 1000)),
        (OPENING + b"Transfer-Encoding: chunked\r\n\r\n1;", b"a" * 1000),
    ],
    ids=["headers", "a header", "an address", "trailers", "an extension"],
)
async def test_what_never_becomes_a_request_is_refused(gateway: Gateway, begin: bytes, more: bytes) -> None:
    """After a bounded number of bytes, whichever part of it has no end."""
    async with listening(gateway.app, served(gateway)) as port, peer_of(port) as peer:
        peer.writer.write(begin)
        reading = asyncio.create_task(refused(peer, 400, b"bad-request"))
        sent = 0
        while not reading.done() and sent < 64 << 20:
            # What is refused is closed while its caller still sends.
            peer.writer.write(more * 16)
            sent += 16 * len(more)
            await asyncio.sleep(0)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await reading
    assert sent < 16 << 20
    assert 'microtome_errors_total{error="bad-request"}' in gateway.metrics.exposition().decode()


@pytest.mark.parametrize("pieces", [(OPENING,), (b"\r\n", b"P"), (REQUEST, OPENING)])
async def test_a_head_that_does_not_come_is_cut_off(gateway: Gateway, pieces: tuple[bytes, ...]) -> None:
    """Whether it is the first of its connection or a later one."""
    async with listening(gateway.app, served(gateway, head_seconds=0.1)) as port, peer_of(port) as peer:
        await peer.send(*pieces)
        if REQUEST in pieces:
            assert 200 == (await peer.answer())[0]
        await refused(peer, 408, b"body-too-slow")


async def test_a_head_that_has_come_is_not_late(gateway: Gateway) -> None:
    """Whether its body comes with the rest of it or by itself."""
    async with listening(gateway.app, served(gateway, head_seconds=0.05)) as port, peer_of(port) as peer:
        for pieces in ((REQUEST[:20], REQUEST[20:]), (REQUEST[:20], REQUEST[20 : -len(IMAGE)], IMAGE)):
            await peer.send(*pieces)
            await asyncio.sleep(0.1)
            assert 200 == (await peer.answer())[0]
        await peer.send(REQUEST)
        assert 200 == (await peer.answer())[0]


async def test_a_head_is_not_late_while_an_answer_is_made(gateway: Gateway) -> None:
    """The gateway itself has the next request wait; it goes on when there is time for it."""
    gateway.server.gate.clear()
    async with listening(gateway.app, served(gateway, head_seconds=0.05)) as port, peer_of(port) as peer:
        await peer.send(REQUEST, OPENING)
        await gateway.server.called(1)
        await asyncio.sleep(0.2)
        await peer.send(b"Content-Length: %d\r\n\r\n" % len(IMAGE) + IMAGE)
        gateway.server.gate.set()
        assert [200, 200] == await answers(peer, 2)


@pytest.mark.parametrize("before", [b"", REQUEST])
async def test_a_connection_without_a_request_is_closed(gateway: Gateway, before: bytes) -> None:
    """A new one has as long as a head, and an answered one as long as keep-alive; blank lines add nothing."""
    bounds = (10.0, 0.2) if before else (0.2, 60.0)
    async with listening(gateway.app, served(gateway, head_seconds=bounds[0]), keep_alive=bounds[1]) as port:
        for blank in (b"", b"\r\n"):
            async with peer_of(port) as peer:
                if before:
                    await peer.send(before)
                    await peer.answer()
                reading = asyncio.create_task(peer.rest())
                while blank and not reading.done():
                    peer.writer.write(blank)
                    await asyncio.sleep(0.05)
                # What comes after the end is answered with a reset.
                with suppress(ConnectionResetError):
                    assert not await reading


async def test_a_head_may_have_32_kilobytes(gateway: Gateway) -> None:
    """Also if it comes in one piece, of which uvicorn would make a list of tens of thousands of headers."""
    async with listening(gateway.app, served(gateway)) as port:
        for number, header in enumerate((b"a:\r\n" * 30_000, b"X-Nothing: %b\r\n" % (b"a" * 200_000)), start=1):
            async with peer_of(port) as peer:
                peer.writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n" + header + b"\r\n")
                # What is refused is closed under a caller who still sends.
                with suppress(ConnectionError, asyncio.IncompleteReadError):
                    await refused(peer, 400, b"bad-request")
            assert f'microtome_errors_total{{error="bad-request"}} {number}.0' in gateway.metrics.exposition().decode()


async def test_what_no_route_reads_is_not_taken_apart(gateway: Gateway) -> None:
    """FastAPI reads cookies and queries for all its routes; Python 3.11 takes 12 s for this cookie."""
    cookie, query = 'a="' + "\\\\" * 12_000 + '"', "&".join("a" * 1000)
    async with asyncio.timeout(2):
        assert 200 == (await gateway.client.get(f"/models?{query}", headers={"Cookie": cookie})).status_code


@pytest.mark.parametrize("rest", ["comes", "does not come"])
async def test_the_rest_of_a_body_that_has_been_answered(gateway: Gateway, rest: str, monkeypatch: Any) -> None:
    """If it comes the connection goes on; if it does not the connection is closed."""
    monkeypatch.setattr(connection_limits, "_LINGER_SECONDS", 0.1)
    async with listening(gateway.app, served(gateway)) as port, peer_of(port) as peer:
        await peer.send(HEAD % 9_001 + b"\r\n", b"a")
        assert 413 == (await peer.answer())[0]
        if rest == "comes":
            await peer.send(b"a" * 9_000 + REQUEST)
            await asyncio.sleep(0.15)
            await peer.send(REQUEST)
            assert [200, 200] == await answers(peer, 2)
        else:
            with pytest.raises(ConnectionError):
                await peer.send(*[b"a"] * 1000)


async def test_answers_that_nobody_takes_are_given_up(gateway: Gateway, monkeypatch: Any) -> None:
    """They would be held in memory for as long as their callers like."""
    monkeypatch.setattr(connection_limits, "_LINGER_SECONDS", 0.1)
    asked = 20
    async with listening(gateway.app, served(gateway)) as port, peer_of(port, takes=4096) as peer:
        transport: Any = peer.writer.transport
        transport.pause_reading()
        peer.writer.write(b"GET /docs-assets/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n" * asked)
        async with asyncio.timeout(30):
            while not transport.is_closing():
                # Blank lines are not read answers. A closed connection shows when something is written to it.
                peer.writer.write(b"\r\n")
                await asyncio.sleep(0.05)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await answers(peer, asked)


@pytest.mark.parametrize("offer", [OFFER, b"Connection: upgrade\r\nUpgrade: websocket\r\n"])
@pytest.mark.parametrize("body", ["with the head", "behind the head", "torn head"])
async def test_an_offer_to_upgrade_is_declined(gateway: Gateway, offer: bytes, body: str) -> None:
    """Java's client makes one with each first request: its body is read, and nothing else is taken for a request."""
    request = HEAD % len(IMAGE) + offer + b"\r\n"
    pieces = {
        "with the head": (request + IMAGE,),
        "behind the head": (request, IMAGE),
        "torn head": (request[:-1], request[-1:] + IMAGE),
    }[body]
    smuggled = b"GET /models HTTP/1.1\r\nHost: x\r\n\r\n"
    async with listening(gateway.app, served(gateway)) as port, peer_of(port) as peer:
        await peer.send(*pieces)
        assert 200 == (await peer.answer())[0]
        await peer.send(HEAD % len(smuggled) + offer + b"\r\n", smuggled)
        assert 422 == (await peer.answer())[0]
        await peer.send(REQUEST, b"GET /livez HTTP/1.1\r\nHost: x\r\n" + offer + b"\r\n" + REQUEST)
        assert [200, 200, 200] == await answers(peer, 3)


async def test_offers_may_come_by_the_thousand(gateway: Gateway) -> None:
    """In one piece: declining one is no deeper than declining another."""
    offer = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
    async with listening(gateway.app, served(gateway)) as port, peer_of(port) as peer:
        peer.writer.write(offer * 1100)
        assert {200} == set(await answers(peer, 1100))


async def test_what_follows_connect_is_no_request(gateway: Gateway) -> None:
    """It would be for the one that the connection led to, which is closed therefore."""
    async with listening(gateway.app, served(gateway), keep_alive=60) as port, peer_of(port) as peer:
        await peer.send(b"CONNECT /embed HTTP/1.1\r\nHost: x\r\n\r\n" + REQUEST)
        assert 405 == (await peer.answer())[0]
        assert not await peer.rest()


async def test_what_is_no_http_is_a_problem(gateway: Gateway) -> None:
    """Like every other error."""
    async with listening(gateway.app, served(gateway)) as port, peer_of(port) as peer:
        await peer.send(b"\x16\x03\x01\x02\x00nonsense\r\n\r\n")
        await refused(peer, 400, b"bad-request")
