"""What one owner of a key learns of another's images, and how much of the gateway it gets, over HTTP."""

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from service.auth import KeyLimits, Keyring, read_keys, with_defaults
from service.cache.memory import MemoryCache
from service.cache.metered import HitCounter
from service.telemetry.metrics import Metrics
from tests.pictures import png
from tests.unit.service.http.conftest import Gateway, gateway_with
from tests.unit.service.http.test_embed import problem
from tests.unit.service.test_auth import line

KEYS = [line("a", "key-a"), line("b", "key-b"), line("own", "key-own", "cache=private")]


@pytest.fixture
async def gateway(decoders: ThreadPoolExecutor) -> AsyncIterator[Gateway]:
    """The application with a cache and three owners of keys, one of which is always private."""
    cache = MemoryCache(1 << 20, HitCounter("memory", Metrics()))
    async with gateway_with(decoders, keyring=Keyring(read_keys(KEYS)), cache=cache) as found:
        yield found


async def source(gateway: Gateway, key: str, query: str = "", seed: int = 1, *, fields: bool = False) -> str:
    """Embed an image, and return where its vector came from."""
    headers = {"X-API-Key": f"key-{key}"}
    if fields:
        options = dict(pair.split("=") for pair in query.split("&"))
        body: dict[str, Any] = {"images": [{"b64": b64encode(png(seed)).decode()}], **options}
        answer = await gateway.client.post("/embed", headers=headers, json=body)
    else:
        answer = await gateway.client.post(f"/embed?{query}", headers=headers, content=png(seed))
    assert 200 == answer.status_code, answer.text
    found: str = answer.json()["embeddings"][0]["cache"]
    return found


async def test_a_shared_vector_tells_that_another_has_embedded_the_image(gateway: Gateway) -> None:
    """The default, which docs/tenants.md describes."""
    assert ["miss", "hit"] == [await source(gateway, "a"), await source(gateway, "b")]


@pytest.mark.parametrize("fields", [False, True], ids=["query", "body"])
async def test_private_vectors_are_found_by_their_owner_only(gateway: Gateway, *, fields: bool) -> None:
    """Also as written responses; private and shared ones do not find each other either way."""
    assert ["miss", "hit", "hit"] == [await source(gateway, "a", "cache=private", fields=fields) for _ in range(3)]
    assert ["miss", "hit"] == [await source(gateway, "b", "cache=private", fields=fields) for _ in range(2)]
    assert ["miss", "hit", "hit"] == [await source(gateway, "a") for _ in range(3)]
    assert "hit" == await source(gateway, "b")


@pytest.mark.parametrize("query", ["", "cache=use", "cache=private", "cache=refresh", "output=corner"])
async def test_a_private_key_uses_nothing_else_whatever_its_requests_say(gateway: Gateway, query: str) -> None:
    """Nor does it leave anything that others find."""
    await source(gateway, "a", "output=all")
    assert "miss" == await source(gateway, "own", query)
    await source(gateway, "own", "output=all", seed=2)
    assert "miss" == await source(gateway, "a", query.replace("cache=private", ""), seed=2)


async def test_work_in_flight_is_not_joined_across_tenants(gateway: Gateway) -> None:
    """Three owners of one image at a time are three computations; the same owner's second request joins the first."""
    gateway.server.gate.clear()
    asked = [
        asyncio.create_task(source(gateway, key, query))
        for key, query in (("own", ""), ("own", ""), ("a", "cache=private"), ("b", ""))
    ]
    await gateway.server.called(3)
    gateway.server.gate.set()
    assert ["coalesced", "miss", "miss", "miss"] == sorted(await asyncio.gather(*asked))


async def test_contracts_of_other_systems_keep_tenants_apart_too(gateway: Gateway) -> None:
    """By the field `cache` where there is one, and by the key everywhere."""
    body = {"model": "toy", "input": [f"data:image/png;base64,{b64encode(png()).decode()}"]}

    async def calls(key: str, **fields: str) -> int:
        before = len(gateway.server.calls)
        headers = {"X-API-Key": f"key-{key}"}
        answer = await gateway.client.post("/v1/embeddings", json={**body, **fields}, headers=headers)
        assert 200 == answer.status_code, answer.text
        return len(gateway.server.calls) - before

    assert [1, 0, 1, 0, 1, 0] == [
        await calls("a"), await calls("b"), await calls("a", cache="private"), await calls("a", cache="private"),
        await calls("own"), await calls("own"),
    ]  # fmt: skip


async def test_without_keys_there_are_no_private_vectors(decoders: ThreadPoolExecutor) -> None:
    """All callers would be one tenant."""
    async with gateway_with(decoders) as gateway:
        answer = await gateway.client.post("/embed?cache=private", content=png())
        assert (400, "bad-request") == problem(answer)
        assert "Expected an API key with `cache=private`" in answer.json()["detail"]


async def test_a_minute_of_requests(decoders: ThreadPoolExecutor) -> None:
    """Hits count too; a refused request is 429 with the time to wait, on every way in; other owners are served."""
    limits = KeyLimits(requests_per_minute=3)
    keyring = Keyring(with_defaults(read_keys(KEYS), limits))
    cache = MemoryCache(1 << 20, HitCounter("memory", Metrics()))
    async with gateway_with(decoders, keyring=keyring, cache=cache) as gateway:
        assert ["miss", "hit", "hit"] == [await source(gateway, "a") for _ in range(3)]
        for path in ("/embed", "/v1/embeddings"):
            refused = await gateway.client.post(path, content=png(), headers={"X-API-Key": "key-a"})
            assert 429 == refused.status_code
            assert 1 <= int(refused.headers["Retry-After"]) <= 120
        embed = await gateway.client.post("/embed", content=png(), headers={"X-API-Key": "key-a"})
        assert (429, "overloaded") == problem(embed)
        assert "3 requests a minute" in embed.json()["detail"]
        assert 200 == (await gateway.client.get("/models", headers={"X-API-Key": "key-a"})).status_code
        assert "hit" == await source(gateway, "b")
        reason = {"reason": "key-requests-per-minute"}
        assert 3 == gateway.metrics.registry.get_sample_value("microtome_overloads_total", reason)


async def test_a_minute_of_images(decoders: ThreadPoolExecutor) -> None:
    """A request counts by its images."""
    keyring = Keyring(read_keys([line("a", "key-a", "images_per_minute=4")]))
    async with gateway_with(decoders, keyring=keyring) as gateway:
        files = [("image", (f"{seed}.png", png(seed), "image/png")) for seed in range(3)]
        statuses = [
            (await gateway.client.post("/embed", files=files[:count], headers={"X-API-Key": "key-a"})).status_code
            for count in (3, 2, 1, 1)
        ]
        assert [200, 429, 200, 429] == statuses
