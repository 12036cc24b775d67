"""With keys configured: who gets in, what a key may have in flight, and what is counted and logged of it."""

import asyncio
import json
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.auth import Keyring, read_keys
from tests.pictures import png
from tests.unit.service.http.conftest import Gateway, gateway_with
from tests.unit.service.http.test_embed import problem
from tests.unit.service.test_auth import line

KEY = {"Authorization": "Bearer s3cret-of-search"}
LIMITED = {"X-API-Key": "s3cret-of-batch"}


@pytest.fixture
async def guarded(decoders: ThreadPoolExecutor) -> AsyncIterator[Gateway]:
    """The application with two keys, of which one may have a single image in flight."""
    lines = [line("search", "s3cret-of-search"), line("batch", "s3cret-of-batch", "images=1", "bytes=4000")]
    async with gateway_with(decoders, keyring=Keyring(read_keys(lines)), log_access=True) as gateway:
        yield gateway


async def test_without_a_key_only_the_front_door_is_open(guarded: Gateway) -> None:
    """Probes, the page that says what this is, and the documentation; models, metrics and vectors are not."""
    for path in ("/", "/livez", "/readyz", "/docs", "/openapi.json"):
        assert 200 == (await guarded.client.get(path)).status_code, path
    for path in ("/models", "/models/toy", "/metrics", "/nix"):
        answer = await guarded.client.get(path)
        assert (401, "unauthenticated") == problem(answer)
        assert "Bearer" == answer.headers["www-authenticate"]
    answer = await guarded.client.post("/embed", content=png(), headers={"Authorization": "Bearer wrong"})
    assert (401, "unauthenticated") == problem(answer)
    assert [] == guarded.server.calls


async def test_both_headers_carry_a_key(guarded: Gateway) -> None:
    """As a bearer token and as X-API-Key; the scheme's letters may be small."""
    for headers in (KEY, LIMITED, {"Authorization": "bearer s3cret-of-batch"}):
        assert 200 == (await guarded.client.post("/embed", content=png(), headers=headers)).status_code


async def test_a_key_has_limits_of_its_own(guarded: Gateway) -> None:
    """Beyond them its requests are 429, while another key's go through."""
    guarded.server.gate.clear()
    first = asyncio.create_task(guarded.client.post("/embed", content=png(1), headers=LIMITED))
    await guarded.server.called(1)
    answer = await guarded.client.post("/embed", content=png(2), headers=LIMITED)
    assert (429, "overloaded") == problem(answer)
    assert "batch" in answer.json()["detail"]
    other = asyncio.create_task(guarded.client.post("/embed", content=png(3), headers=KEY))
    guarded.server.gate.set()
    assert [200, 200] == [answer.status_code for answer in await asyncio.gather(first, other)]


async def test_names_are_counted_and_logged_and_secrets_are_not(
    guarded: Gateway, capfd: pytest.CaptureFixture[str]
) -> None:
    """The metrics and the log know the key's name; neither has a key in it, right or wrong."""
    await guarded.client.post("/embed", content=png(), headers=KEY)
    await guarded.client.post("/embed?key=s3cret", content=png(), headers={"X-API-Key": "s3cret-wrong"})
    text = (await guarded.client.get("/metrics", headers=KEY)).text
    assert 'microtome_key_requests_total{key="search"} 2.0' in text
    assert 'microtome_errors_total{error="unauthenticated"} 1.0' in text
    assert "s3cret" not in text
    assert "s3cret" not in "".join(capfd.readouterr())


async def test_each_request_is_a_line_of_the_log(guarded: Gateway) -> None:
    """Route, status, duration, images, model and the key's name; facts, no sentences."""
    await guarded.client.post("/embed", files=[("a", png(1)), ("b", png(2))], headers=KEY)
    (event,) = guarded.log.events
    assert ("request", "/embed", 200, 2, "toy", "search") == tuple(
        event[name] for name in ("event", "route", "status", "images", "model", "key")
    )
    assert {"read_ms", "hash_ms", "cache_ms", "decode_ms", "encode_ms"} <= event.keys()
    assert json.dumps(event)
