"""Cache lookups before admission: what a remote cache has is answered under any load."""

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack

import httpx
import pytest

from service.auth import Keyring, read_keys
from service.cache.coalescing import CoalescingCache
from service.http import embed
from tests.fakes.model_server import card
from tests.fakes.vector_cache import FakeCache
from tests.pictures import png
from tests.unit.service.http.conftest import Gateway, gateway_with
from tests.unit.service.http.test_disconnects import listening, shows
from tests.unit.service.http.test_embed import problem
from tests.unit.service.http.test_sockets import peer_of, served
from tests.unit.service.test_auth import line

KEY = "s3cret-of-search"


@pytest.fixture
def far() -> FakeCache:
    """A cache whose answers can be held back."""
    return FakeCache()


@pytest.fixture
async def gateway(decoders: ThreadPoolExecutor, far: FakeCache) -> AsyncIterator[Gateway]:
    """The application over that cache alone, with room for four images in flight."""
    async with gateway_with(decoders, cache=CoalescingCache(far), response_cache_bytes=0) as found:
        yield found


class Ask:
    """Sends images over sockets."""

    def __init__(self, servers: AsyncExitStack) -> None:
        self._servers = servers
        self._ports: dict[int, int] = {}

    async def __call__(self, gateway: Gateway, image: bytes, query: str = "") -> httpx.Response:
        """Send one."""
        port = self._ports.get(id(gateway))
        if port is None:
            server = listening(gateway.app, served(gateway))
            port = self._ports[id(gateway)] = await self._servers.enter_async_context(server)
        head = f"POST /embed?{query} HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nContent-Length: {len(image)}\r\n\r\n"
        async with peer_of(port) as peer:
            peer.writer.write(head.encode() + image)
            status, told, content = await peer.answer()
        headers = [line.split(": ", 1) for line in told.decode().split("\r\n")[1:] if line]
        return httpx.Response(status, headers=[(name, value) for name, value in headers], content=content)


@pytest.fixture
async def ask() -> AsyncIterator[Ask]:
    """Asks over sockets."""
    async with AsyncExitStack() as servers:
        yield Ask(servers)


async def looked(far: FakeCache, keys: int) -> None:
    """Wait until the cache has been asked for so many."""
    while sum(map(len, far.asked)) < keys:  # noqa: ASYNC110, polled like any other process
        await asyncio.sleep(0)


def shown(gateway: Gateway, name: str) -> str:
    """One metric's value."""
    lines = gateway.metrics.exposition().decode().splitlines()
    return next(line.rpartition(" ")[2] for line in lines if line.startswith(f"{name} "))


async def test_a_hit_takes_no_place_and_a_miss_asks_the_cache_once(ask: Ask, gateway: Gateway, far: FakeCache) -> None:
    """With all places taken hits are answered and misses refused; each of them was one question."""
    assert "miss" == (await ask(gateway, png())).headers["x-cache"]
    assert 1 == len(far.asked)
    gateway.server.gate.clear()
    others = [asyncio.create_task(ask(gateway, png(seed))) for seed in range(1, 5)]
    await gateway.server.called(5)
    far.asked.clear()
    assert "hit" == (await ask(gateway, png())).headers["x-cache"]
    assert (429, "overloaded") == problem(await ask(gateway, png(9)))
    assert "1.0" == shown(gateway, 'microtome_overloads_total{reason="images"}')
    assert 2 == len(far.asked)
    gateway.server.gate.set()
    assert {200} == {each.status_code for each in await asyncio.gather(*others)}


async def test_bulk_requests_of_any_contract_leave_a_place_to_others(ask: Ask, gateway: Gateway) -> None:
    """Three of the four places, by any of the ways to say so; hits need none."""
    gateway.server.gate.clear()
    uris = [f"data:image/png;base64,{b64encode(png(seed)).decode()}" for seed in range(3)]
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [b64encode(png(2)).decode()]}
    posts = {
        "/embed": {"image": b64encode(png(0)).decode(), "priority": "bulk"},
        "/v2/embed": {"images": [uris[1]], "priority": 7},
        "/v2/models/toy/infer": {"inputs": [tensor], "parameters": {"priority": "bulk"}},
    }
    run = [asyncio.create_task(gateway.client.post(path, json=body)) for path, body in posts.items()]
    await gateway.server.called(3)
    assert "3.0" == shown(gateway, "microtome_bulk_images_in_flight")
    refused = [
        await gateway.client.post("/v1/embeddings", json={"input": uris[:1], "model": "toy", "priority": "bulk"})
    ]
    refused += [await ask(gateway, png(9), "priority=bulk")]
    assert [429, 429] == [each.status_code for each in refused]
    assert {"1"} == {each.headers["retry-after"] for each in refused}
    other = asyncio.create_task(ask(gateway, png(9)))
    await gateway.server.called(4)
    gateway.server.gate.set()
    assert {200} == {each.status_code for each in await asyncio.gather(*run, other)}
    assert "2.0" == shown(gateway, 'microtome_overloads_total{reason="bulk-images"}')
    wrong = [
        await gateway.client.post("/v2/embed", json={"images": uris, "priority": 1000}),
        await gateway.client.post("/v2/models/toy/infer", json={"inputs": [tensor], "parameters": {"priority": 1}}),
    ]
    assert [400, 400] == [each.status_code for each in wrong]


async def test_bodies_are_held_while_the_cache_is_waited_for(ask: Ask, gateway: Gateway, far: FakeCache) -> None:
    """Memory stays bounded whatever the cache does: the bytes are counted, and given back."""
    far.gate.clear()
    body = png()
    waiting = asyncio.create_task(ask(gateway, body))
    await looked(far, 1)
    assert str(float(len(body))) == shown(gateway, "microtome_body_bytes_in_flight")
    assert "0.0" == shown(gateway, "microtome_images_in_flight")
    far.gate.set()
    assert 200 == (await waiting).status_code
    assert "0.0" == shown(gateway, "microtome_body_bytes_in_flight")


async def test_bodies_are_held_in_their_callers_budget_too(
    ask: Ask, decoders: ThreadPoolExecutor, far: FakeCache
) -> None:
    """Who may have few bytes in flight is refused the second body while the cache is asked for the first."""
    keyring = Keyring(read_keys([line("search", KEY, f"bytes={len(png()) + 10}")]))
    async with gateway_with(decoders, cache=CoalescingCache(far), keyring=keyring) as gateway:
        far.gate.clear()
        first = asyncio.create_task(ask(gateway, png()))
        await looked(far, 1)
        refused = await ask(gateway, png(2))
        assert (429, "overloaded") == problem(refused)
        assert "bytes of search" in refused.json()["detail"]
        far.gate.set()
        assert 200 == (await first).status_code


async def test_while_an_image_is_computed_its_bytes_are_held(ask: Ask, gateway: Gateway) -> None:
    """They count until the answer, and no longer."""
    gateway.server.gate.clear()
    waiting = asyncio.create_task(ask(gateway, png()))
    await gateway.server.called(1)
    assert f"{len(png())}.0" == shown(gateway, "microtome_body_bytes_in_flight")
    gateway.server.gate.set()
    assert 200 == (await waiting).status_code
    assert "0.0" == shown(gateway, "microtome_body_bytes_in_flight")


@pytest.mark.parametrize("limit", [f"bytes={len(png()) + 10}", "images=1"])
async def test_while_an_image_is_computed_it_counts_for_its_caller(
    ask: Ask, decoders: ThreadPoolExecutor, limit: str
) -> None:
    """Who may have one image in flight, or the bytes of one, is refused the second."""
    keyring = Keyring(read_keys([line("search", KEY, limit)]))
    async with gateway_with(decoders, keyring=keyring) as gateway:
        gateway.server.gate.clear()
        first = asyncio.create_task(ask(gateway, png()))
        await gateway.server.called(1)
        refused = await ask(gateway, png(2))
        assert (429, "overloaded") == problem(refused)
        assert "of search" in refused.json()["detail"]
        reason = f"key-{limit.partition('=')[0]}"
        assert "1.0" == shown(gateway, f'microtome_overloads_total{{reason="{reason}"}}')
        gateway.server.gate.set()
        assert 200 == (await first).status_code


async def test_an_image_that_is_not_computed_in_time(ask: Ask, decoders: ThreadPoolExecutor) -> None:
    """The time that every request may take holds for one without a word on its time, and nothing stays in flight."""
    async with gateway_with(decoders, deadline=0.05) as gateway:
        gateway.server.gate.clear()
        late = await ask(gateway, png())
        assert (504, "deadline-exceeded") == problem(late)
        assert "0.05 s" in late.json()["detail"]
        assert "0.0" == shown(gateway, "microtome_images_in_flight")


async def test_beyond_so_many_looks_each_request_takes_a_place(
    ask: Ask, gateway: Gateway, far: FakeCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of looks that are waited for is bounded; further requests are bounded by the images in flight."""
    monkeypatch.setattr(embed, "_MAX_LOOKUPS", 1)
    far.gate.clear()
    asked = [asyncio.create_task(ask(gateway, png(seed))) for seed in range(3)]
    await looked(far, 3)
    assert "2.0" == shown(gateway, "microtome_images_in_flight")
    far.gate.set()
    assert [200, 200, 200] == [each.status_code for each in await asyncio.gather(*asked)]


@pytest.mark.parametrize("known", [True, False])
async def test_a_version_that_is_switched_during_a_look(
    ask: Ask, gateway: Gateway, far: FakeCache, known: bool
) -> None:
    """What was found is answered under the version that was asked; what was not is the new version's to answer."""
    image, query = png(), "output=corner"
    if known:
        await ask(gateway, image, query)
    far.asked.clear()
    far.gate.clear()
    waiting = asyncio.create_task(ask(gateway, image, query))
    await looked(far, 1)
    gateway.server.current = card(2)
    far.gate.set()
    answer = await waiting
    version = 1 if known else 2
    assert (str(version), "hit" if known else "miss") == (answer.headers["x-model-version"], answer.headers["x-cache"])
    assert version == answer.json()["embeddings"][0]["vector"][-1]


async def test_a_bad_option_is_told_and_the_cache_is_not_asked(ask: Ask, gateway: Gateway, far: FakeCache) -> None:
    """Errors are those of every other way in."""
    assert (400, "bad-request") == problem(await ask(gateway, png(), "dimensions=99"))
    assert (404, "unknown-model") == problem(await ask(gateway, png(), "model=nix"))
    assert (404, "unknown-output") == problem(await ask(gateway, png(), "output=nix"))
    assert [] == far.asked


async def test_in_an_overload_no_more_are_looked_up_than_there_are_places(
    ask: Ask, gateway: Gateway, far: FakeCache
) -> None:
    """Who would find all places taken by those who look already is refused before it looks, too."""
    gateway.server.gate.clear()
    others = [asyncio.create_task(ask(gateway, png(seed))) for seed in range(4)]
    await gateway.server.called(4)
    for seed in range(4, 500):
        assert 429 == (await ask(gateway, b"%d" % seed)).status_code
    gateway.server.gate.set()
    await asyncio.gather(*others)
    far.asked.clear()
    far.gate.clear()
    waiting = [asyncio.create_task(ask(gateway, png(seed))) for seed in range(500, 520)]
    await looked(far, 4)
    while sum(each.done() for each in waiting) < 20 - 4 - 1:  # noqa: ASYNC110, polled like any other process
        await asyncio.sleep(0)
    refused = [each.result().status_code for each in waiting if each.done()]
    # One or none of twenty is looked up whatever there is room for.
    assert [429] * len(refused) == refused
    assert 20 - 4 - 1 <= len(refused) <= 20 - 4
    far.gate.set()
    assert 4 == [each.status_code for each in await asyncio.gather(*waiting)].count(200)


async def test_in_an_overload_of_unknown_images_few_are_looked_up(ask: Ask, gateway: Gateway, far: FakeCache) -> None:
    """Refused by their heads; but when images that are known come, they are answered again."""
    known = png()
    await ask(gateway, known)
    gateway.server.gate.clear()
    others = [asyncio.create_task(ask(gateway, png(seed))) for seed in range(1, 5)]
    await gateway.server.called(5)
    for seed in range(5, 500):
        assert 429 == (await ask(gateway, b"%d" % seed)).status_code
    far.asked.clear()
    statuses = [(await ask(gateway, b"%d" % seed)).status_code for seed in range(500, 628)]
    assert ({429}, 2) == (set(statuses), len(far.asked))
    answers = [(await ask(gateway, known)).status_code for _ in range(80)]
    assert answers == [429] * answers.index(200) + [200] * (80 - answers.index(200))
    assert answers.index(200) < 64
    gateway.server.gate.set()
    assert {200} == {each.status_code for each in await asyncio.gather(*others)}


async def test_a_caller_that_leaves_during_its_look_is_counted_once(gateway: Gateway, far: FakeCache) -> None:
    """One request, one image, one status; nothing of it stays in flight, and it makes no room for others."""
    far.gate.clear()
    gateway.server.gate.clear()
    async with listening(gateway.app, served(gateway)) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: {len(png())}\r\n\r\n".encode() + png())
        await looked(far, 1)
        writer.close()
        await writer.wait_closed()
        far.gate.set()
        await asyncio.wait_for(shows(gateway, 'microtome_requests_total{route="/embed",status="499"} 1.0'), 10)
    lines = gateway.metrics.exposition().decode().splitlines()
    assert 1 == len([line for line in lines if line.startswith("microtome_requests_total")])
    assert ("1.0", "0.0") == (shown(gateway, "microtome_images_total"), shown(gateway, "microtome_images_in_flight"))
    assert "0.0" == shown(gateway, "microtome_body_bytes_in_flight")
    assert 1 == sum(map(len, far.asked))
