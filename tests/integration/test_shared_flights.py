"""Gateways that share a Redis compute each vector once, and none waits for another that is gone."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from microtome.errors import BrokenImage
from service.application import open_cache
from service.cache.circuit_breaker import FailOpenCache
from service.cache.redis.cache import HeldLeases, RedisCache, RedisLeases, Seal, lease_key
from service.cache.redis.client import RedisServers
from service.core.admission import Budget
from service.core.cache_keys import image_digest, vector_key
from service.core.decoding import DecodeMemory, Decoding
from service.core.embedder import Embedder, Limits
from service.core.requests import EmbedRequest, Source
from service.settings import Settings
from service.telemetry.logs import configure
from service.telemetry.metrics import Metrics
from tests.e2e.processes import Valkey
from tests.fakes.model_server import FakeModelServer, card
from tests.pictures import png

LONG = 60.0
"""A lease that no test waits for."""


class Observing(Metrics):
    """Notes the stages that requests went through."""

    def __init__(self, stages: list[str]) -> None:
        super().__init__()
        self._seen = stages

    def stage(self, name: str, seconds: float) -> None:
        """Note it."""
        self._seen.append(name)
        super().stage(name, seconds)


class Gateway:
    """The parts of a gateway that matter here, over a model server of its own."""

    def __init__(self, url: str, decoders: ThreadPoolExecutor, lease: float, seal: Seal | None = None) -> None:
        self.server = FakeModelServer(card())
        servers, held, metrics = RedisServers(url), HeldLeases(lease), Metrics()
        store = RedisCache(servers, ttl=60, metrics=metrics, held=held, seal=seal)
        self.cache = FailOpenCache(store, budget=5, window=60, metrics=metrics, log=configure("json", "error"))
        self.notices: list[str] = []
        self.leases = RedisLeases(
            servers, held, guards=self.cache, notice=lambda _, text: self.notices.append(text), seal=seal
        )
        self.stages: list[str] = []
        self.embedder = Embedder(
            self.server,
            self.cache,
            limits=Limits(max_images=6),
            budget=Budget(640, "images"),
            decoding=Decoding(decoders, DecodeMemory(1 << 30), at_a_time=2, max_pixels=10_000),
            observer=Observing(self.stages),
            leases=self.leases,
        )

    async def sources(self, *images: bytes, outputs: Sequence[str] = ("mean",)) -> list[Source]:
        """Embed images, and tell where their vectors came from."""
        answer = await self.embedder.embed(EmbedRequest("toy", outputs=tuple(outputs)), images)
        assert all(np.isfinite(e.vector).all() for e in answer.embeddings)
        return [e.cache for e in answer.embeddings]


class Pair:
    """Two gateways, and as many more as a test wants, on one Valkey."""

    def __init__(self, valkey: Valkey, decoders: ThreadPoolExecutor) -> None:
        self.valkey = valkey
        self._decoders = decoders
        self._all: list[Gateway] = []

    def gateway(self, lease: float = LONG) -> Gateway:
        """One more."""
        self._all.append(Gateway(self.valkey.url, self._decoders, lease))
        return self._all[-1]

    async def close(self) -> None:
        """Close them all."""
        for gateway in self._all:
            await gateway.cache.close()


@pytest.fixture
async def pair(valkey: Valkey) -> AsyncIterator[Pair]:
    """Gateways over an empty Valkey."""
    with valkey.client() as client:
        client.flushdb()
    with ThreadPoolExecutor(2) as decoders:
        pair = Pair(valkey, decoders)
        yield pair
        await pair.close()


async def test_what_one_gateway_computes_another_waits_for(pair: Pair) -> None:
    """Fifty requests over two gateways are one inference; only the first is told that it was a miss."""
    one, two = pair.gateway(), pair.gateway()
    one.server.gate.clear()
    first = asyncio.create_task(one.sources(png()))
    await one.server.called(1)
    others = [asyncio.create_task((one, two)[turn % 2].sources(png())) for turn in range(49)]
    await asyncio.sleep(0)
    one.server.gate.set()
    assert ["miss"] == await first
    assert {"coalesced", "hit"} >= {source for (source,) in await asyncio.gather(*others)}
    assert (1, 0) == (len(one.server.calls), len(two.server.calls))


async def test_two_gateways_that_want_each_others_outputs_both_answer(pair: Pair) -> None:
    """Each computes first what it claimed, and then looks for what the other has: no two wait for each other."""
    one, two = pair.gateway(), pair.gateway()
    one.server.gate.clear()
    two.server.gate.clear()
    tasks = [asyncio.create_task(one.sources(png(), outputs=("mean",)))]
    await one.server.called(1)
    tasks.append(asyncio.create_task(two.sources(png(), outputs=("mean", "corner"))))
    await two.server.called(1)
    tasks.append(asyncio.create_task(one.sources(png(), outputs=("corner",))))
    await asyncio.sleep(0)
    one.server.gate.set()
    two.server.gate.set()
    assert [["miss"], ["coalesced", "miss"], ["coalesced"]] == await asyncio.gather(*tasks)
    assert [("mean",), ("corner",)] == [outputs for _, outputs, _ in one.server.calls + two.server.calls]


async def test_a_gateway_that_dies_costs_its_lease(pair: Pair, valkey: Valkey) -> None:
    """A claim that no gateway keeps ends by itself, and those that waited compute."""
    alive = pair.gateway(lease=30.0)
    key = vector_key(card().manifest.fingerprint, "mean", image_digest(png()))
    with valkey.client() as client:
        client.set(lease_key(key), "of a dead gateway", px=300)
    assert ["miss"] == await alive.sources(png())
    assert 1 == len(alive.server.calls)


async def test_claims_without_an_end_cost_one_wait(pair: Pair, valkey: Valkey) -> None:
    """The first that outlives its time is ended, and none is waited for after it, however many are set."""
    alive = pair.gateway(lease=0.3)
    keys = [vector_key(card().manifest.fingerprint, "mean", image_digest(png(seed))) for seed in range(20)]
    with valkey.client() as client:
        for key in keys:
            client.set(lease_key(key), "for ever")
        assert ["miss"] == await alive.sources(png(0))
        async with asyncio.timeout(10):
            while client.exists(lease_key(keys[0])):  # noqa: ASYNC110, Redis does not tell
                await asyncio.sleep(0.01)
    assert 1 == len(alive.notices)
    assert "elsewhere" in alive.stages
    alive.stages.clear()
    assert [["miss"]] * 19 == await asyncio.gather(*(alive.sources(png(seed)) for seed in range(1, 20)))
    assert "elsewhere" not in alive.stages
    assert not (await alive.leases.acquire(keys)).elsewhere


async def test_a_claim_ends_with_its_work(pair: Pair) -> None:
    """Also when the image is bad, or the caller goes away: the next gateway does not wait."""
    one, two = pair.gateway(), pair.gateway()
    with pytest.raises(BrokenImage):
        await one.sources(png()[:-200])
    with pytest.raises(BrokenImage):
        await two.sources(png()[:-200])
    one.server.gate.clear()
    leaving = asyncio.create_task(one.sources(png(5)))
    await one.server.called(1)
    leaving.cancel()
    await asyncio.wait([leaving])
    assert ["miss"] == await two.sources(png(5))
    with pair.valkey.client() as client:
        # The last one ends with the write of its vector, after the answer and long before its lease.
        async with asyncio.timeout(10):
            while client.keys("mt1-claim:*"):  # noqa: ASYNC110, Redis does not tell
                await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("setting", "unwritten_bytes", "value"),
    [({}, 0, b"1234"), ({"cache_float16": True}, 1 << 20, np.array([1, 1e-12], "<f4").tobytes())],
    ids=["too many wait to be written", "beyond what a float16 can hold"],
)
async def test_a_vector_that_is_not_written_is_not_waited_for(
    pair: Pair, setting: dict[str, Any], unwritten_bytes: int, value: bytes
) -> None:
    """It is dropped, and with it the claim on it."""
    settings = Settings(
        model_server=("localhost:1",),
        models=("toy",),
        allow_anonymous=True,
        redis_url=pair.valkey.url,
        cache_budget=5,
        cache_lease=LONG,
        **setting,
    )
    log = configure("json", "error")
    cache, leases, *_ = open_cache(settings, Metrics(), log, unwritten_bytes=unwritten_bytes)
    assert not (await leases.acquire(["k", "l"])).elsewhere
    with pair.valkey.client() as client:
        assert 2 == len(client.keys("mt1-claim:*"))
        await cache.put_many({"k": value})
        async with asyncio.timeout(10):
            while len(client.keys("mt1-claim:*")) > 1:  # noqa: ASYNC110, Redis does not tell
                await asyncio.sleep(0.01)
    await cache.close()


@pytest.mark.parametrize("turns", [0, 1, 2, 50])
async def test_who_leaves_while_claiming_leaves_no_claim(pair: Pair, turns: int) -> None:
    """Whenever its caller leaves: others need not wait for what is not computed."""
    gateway = pair.gateway(LONG)
    gone = asyncio.ensure_future(gateway.leases.acquire(["k"]))
    stays = asyncio.ensure_future(gateway.leases.acquire(["l"]))
    for _ in range(turns):
        await asyncio.sleep(0)
    gone.cancel()
    await stays
    await asyncio.gather(gone, return_exceptions=True)
    with pair.valkey.client() as client:
        async with asyncio.timeout(10):
            while gone.cancelled() and client.keys("mt1-claim:*k*"):  # noqa: ASYNC110, Redis does not tell
                await asyncio.sleep(0.01)
        assert client.keys("mt1-claim:*l*")


async def test_a_vector_written_meanwhile_is_found_by_the_claim(pair: Pair) -> None:
    """Between the look into the cache and the claim another gateway may be done: then nothing is computed."""
    one, two = pair.gateway(), pair.gateway()
    assert ["miss"] == await one.sources(png())
    key = vector_key(card().manifest.fingerprint, "mean", image_digest(png()))
    taken = await two.leases.acquire([key])
    assert ({key}, frozenset()) == (set(taken.found), taken.elsewhere)


async def test_without_redis_everybody_computes(pair: Pair, valkey: Valkey) -> None:
    """A Redis that cannot be written to grants no claims and costs no request."""
    one, two = pair.gateway(), pair.gateway()
    with valkey.client() as client:
        client.config_set("maxmemory", "1")
        client.config_set("maxmemory-policy", "noeviction")
        try:
            answers = await asyncio.gather(one.sources(png(8)), two.sources(png(8)))
        finally:
            client.config_set("maxmemory", "0")
    assert [["miss"], ["miss"]] == list(answers)
    assert (1, 1) == (len(one.server.calls), len(two.server.calls))
