"""API keys: whose call it is, and what it may have in flight."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc.aio
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc

from microtome.inference.v2 import inference_pb2
from microtome.v1 import embedding_pb2 as pb
from service.auth import Keyring, read_keys
from service.cache.memory import MemoryCache
from service.cache.metered import HitCounter
from service.grpc.kserve import SERVICE
from service.telemetry.metrics import Metrics
from tests.pictures import png
from tests.unit.service.grpc.conftest import Service, reason_of, service_with, status_of, unpacked
from tests.unit.service.grpc.test_kserve import inferring

BEARER = (("authorization", "Bearer secret"),)
SMALL = (("x-api-key", "small"),)
FEW = (("x-api-key", "few"),)


def line(name: str, key: str, limits: str = "") -> str:
    """A key as it is written down."""
    return f"{name} sha256:{hashlib.sha256(key.encode()).hexdigest()} {limits}"


@pytest.fixture
async def guarded(decoders: ThreadPoolExecutor) -> AsyncIterator[Service]:
    """A server with keys: one without limits, one of 1,000 bytes, one of 1 image in flight."""
    keys = [line("shop", "secret"), line("small", "small", "bytes=1000"), line("few", "few", "images=1")]
    async with service_with(decoders, keyring=Keyring(read_keys(keys))) as found:
        yield found


def embed(service: Service, seed: int, metadata: tuple[tuple[str, str], ...] = ()) -> Any:
    """A call."""
    return service.stub.Embed(pb.EmbedRequest(images=[pb.Image(data=png(seed))]), metadata=metadata)


async def test_a_key_is_taken_from_either_of_two_places(guarded: Service) -> None:
    """As in HTTP; calls are counted by the key's name."""
    for metadata in (BEARER, (("x-api-key", "secret"),)):
        assert 1 == len((await embed(guarded, 1, metadata)).results)
    assert 2 == guarded.counted("microtome_key_requests_total", key="shop")


async def test_without_a_known_key_nothing_is_answered_nor_read(guarded: Service) -> None:
    """No method of ours is; health and reflection are, as probes and tools have no keys."""
    calls: list[Any] = [
        guarded.stub.Embed(pb.EmbedRequest()),
        guarded.stub.ListModels(pb.ListModelsRequest()),
        guarded.stub.GetModel(pb.GetModelRequest(name="toy"), metadata=(("x-api-key", "wrong"),)),
        guarded.stub.EmbedStream(iter([pb.EmbedStreamRequest(id="a")])).read(),
    ]
    for call in calls:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert (StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED") == (
            caught.value.code(),
            reason_of(status_of(caught.value)),
        )
    health = health_pb2_grpc.HealthStub(guarded.channel)
    assert health_pb2.HealthCheckResponse.SERVING == (await health.Check(health_pb2.HealthCheckRequest())).status


async def test_health_of_the_inference_protocol_needs_no_key(guarded: Service) -> None:
    """As over REST: whether it lives, whether it is ready, what it is; nothing of models. A wrong key is no key."""

    async def ask(method: str, kind: type[Any], metadata: tuple[tuple[str, str], ...] = ()) -> Any:
        call: Any = guarded.channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
        return kind.FromString(await call(b"", metadata=metadata))

    for metadata in ((), (("x-api-key", "wrong"),)):
        assert (await ask("ServerLive", inference_pb2.ServerLiveResponse, metadata)).live
        assert (await ask("ServerReady", inference_pb2.ServerReadyResponse, metadata)).ready
        assert "microtome" == (await ask("ServerMetadata", inference_pb2.ServerMetadataResponse, metadata)).name
        for method in ("ModelReady", "ModelMetadata", "ModelInfer"):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await ask(method, inference_pb2.ModelReadyResponse, metadata)
            assert StatusCode.UNAUTHENTICATED == caught.value.code()


@pytest.mark.parametrize("metadata", [SMALL, FEW], ids=["bytes", "images"])
async def test_a_keys_own_limits_hold(guarded: Service, metadata: tuple[tuple[str, str], ...]) -> None:
    """Its second call is refused while its first is in flight, and no other key's is; in a stream it waits instead."""
    guarded.server.gate.clear()
    first = asyncio.ensure_future(embed(guarded, 1, metadata))
    await guarded.server.called(1)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await embed(guarded, 2, metadata)
    assert "OVERLOADED" == reason_of(status_of(caught.value))
    other = asyncio.ensure_future(embed(guarded, 3, BEARER))
    await guarded.server.called(2)
    messages = [pb.EmbedStreamRequest(id=str(seed), image=pb.Image(data=png(seed))) for seed in range(4, 10)]
    stream = guarded.stub.EmbedStream(iter(messages), metadata=metadata)
    guarded.server.gate.set()
    assert [0] * 6 == [answer.result.error.code async for answer in stream]
    await first
    await other


@pytest.fixture
async def shared(decoders: ThreadPoolExecutor) -> AsyncIterator[Service]:
    """A server with a cache and keys: two that share it, one that is private, one of four images a minute."""
    keys = [
        line("a", "a"),
        line("b", "b"),
        line("own", "own", "cache=private"),
        line("rated", "rated", "requests_per_minute=3 images_per_minute=4"),
    ]
    cache = MemoryCache(1 << 20, HitCounter("memory", Metrics()))
    async with service_with(decoders, keyring=Keyring(read_keys(keys)), cache=cache) as found:
        yield found


async def unary(service: Service, key: str, cache: Any) -> str:
    """Where the vector of one image came from."""
    request = pb.EmbedRequest(options=pb.EmbedOptions(cache=cache), images=[pb.Image(data=png())])
    answer = await service.stub.Embed(request, metadata=(("x-api-key", key),))
    return str(pb.CacheResult.Name(answer.results[0].embeddings[0].cache)).removeprefix("CACHE_RESULT_")


async def streamed(service: Service, key: str, cache: Any) -> str:
    """The same by a stream."""
    first = pb.EmbedStreamRequest(options=pb.EmbedOptions(cache=cache), id="1", image=pb.Image(data=png()))
    (answer,) = [a async for a in service.stub.EmbedStream(iter([first]), metadata=(("x-api-key", key),))]
    return str(pb.CacheResult.Name(answer.result.embeddings[0].cache)).removeprefix("CACHE_RESULT_")


@pytest.mark.parametrize("ask", [unary, streamed])
async def test_private_vectors_are_found_by_their_owner_only(shared: Service, ask: Any) -> None:
    """Of a call that says so, and of all calls of a key that is private; in streams too."""
    calls = [
        ("a", pb.CACHE_USE_PRIVATE), ("a", pb.CACHE_USE_PRIVATE), ("own", pb.CACHE_USE_USE),
        ("own", pb.CACHE_USE_PRIVATE), ("b", pb.CACHE_USE_USE), ("a", pb.CACHE_USE_USE), ("b", pb.CACHE_USE_PRIVATE),
    ]  # fmt: skip
    found = [await ask(shared, key, cache) for key, cache in calls]
    assert ["MISS", "HIT", "MISS", "HIT", "MISS", "HIT", "MISS"] == found


@pytest.mark.parametrize("ask", [unary, streamed])
async def test_without_keys_there_are_no_private_vectors(service: Service, ask: Any) -> None:
    """All callers would be one tenant."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(service, "none", pb.CACHE_USE_PRIVATE)
    assert "BAD_REQUEST" == reason_of(status_of(caught.value))


async def test_the_inference_protocol_keeps_tenants_apart(shared: Service) -> None:
    """By its parameter `cache`, and by the key."""
    infer: Any = shared.channel.unary_unary(
        f"/{SERVICE}/ModelInfer", request_serializer=inference_pb2.ModelInferRequest.SerializeToString
    )

    async def calls(key: str, cache: str) -> int:
        before = len(shared.server.calls)
        request = inferring(png())
        request.parameters["cache"].string_param = cache
        await infer(request, metadata=(("x-api-key", key),))
        return len(shared.server.calls) - before

    asked = (("a", "use"), ("a", "private"), ("a", "private"), ("own", "use"), ("b", "use"))
    found = [await calls(*one) for one in asked]
    assert [1, 1, 0, 1, 0] == found


async def test_a_minute_is_refused_to_calls_and_awaited_by_streams(
    shared: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RESOURCE_EXHAUSTED with the time to wait; a stream reads no further until a later minute."""
    now = [600.0]
    rated = shared.methods.calls.keyring.identify("rated").rate  # type: ignore[union-attr]
    assert rated is not None
    monkeypatch.setattr(rated, "_clock", lambda: now[0])
    metadata = (("x-api-key", "rated"),)
    messages = [pb.EmbedStreamRequest(id=str(seed), image=pb.Image(data=png(seed))) for seed in range(6)]
    stream = shared.stub.EmbedStream(iter(messages), metadata=metadata)
    first: list[Any] = [await stream.read() for _ in range(4)]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await embed(shared, 9, metadata)
    assert (StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED") == (caught.value.code(), reason_of(status_of(caught.value)))
    assert unpacked(status_of(caught.value), RetryInfo()).retry_delay.seconds > 0
    now[0] += 120
    rest: list[Any] = [await stream.read(), await stream.read(), await stream.read()]
    assert rest.pop() is grpc.aio.EOF
    assert [str(seed) for seed in range(6)] == sorted(answer.id for answer in [*first, *rest])
