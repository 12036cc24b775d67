"""API keys: whose call it is, and what it may have in flight."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc.aio
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc

from microtome.inference.v2 import inference_pb2
from microtome.v1 import embedding_pb2 as pb
from service.auth import Keyring, read_keys
from tests.pictures import png
from tests.unit.service.grpc.conftest import Service, reason_of, service_with, status_of

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
