"""Messages are counted before protobuf makes objects of them, and calls that are silent do not stay."""

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub
from hypothesis import given
from hypothesis import strategies as st

from microtome.errors import BadRequest
from microtome.inference.v2 import inference_pb2 as inference
from microtome.protobuf import field_prefix
from microtome.v1 import embedding_pb2 as pb
from service.auth import Keyring, read_keys
from service.grpc import server, stream
from service.grpc.embed import parsed
from tests.hostile.slow import SlowCalls
from tests.pictures import png
from tests.unit.service.grpc.conftest import Service, service_with


def inner(number: int, payload: bytes) -> bytes:
    """Write a field of a message."""
    return field_prefix(number, len(payload)) + payload


MANY = 20_000


@pytest.mark.parametrize(
    ("kind", "raw"),
    [
        (pb.EmbedRequest, b"\x12\x00" * MANY),
        (pb.EmbedRequest, inner(1, b"\x1a\x00" * MANY)),
        (pb.EmbedRequest, b"\x78\x01" * MANY),
        (pb.EmbedRequest, b"\x7b" * MANY),
        (pb.EmbedRequest, b"\x10" + b"\xff" * MANY),
        (pb.EmbedStreamRequest, inner(4, b"\x12\x00" * MANY)),
        (inference.ModelInferRequest, b"\x2a\x00" * MANY),
        (inference.ModelInferRequest, b"\x22\x00" * MANY),
        (inference.ModelInferRequest, b"\x3a\x00" * MANY),
        (inference.ModelInferRequest, inner(5, inner(3, b"\x01" * 500_000))),
        (inference.ModelInferRequest, inner(5, inner(5, inner(4, b"\x01" * 500_000)))),
        (inference.ModelInferRequest, inner(5, inner(5, b"\x42\x00" * MANY))),
    ],
)
def test_what_no_request_needs_is_refused(kind: Any, raw: bytes) -> None:
    """8 MB of empty inputs took two seconds and 350 MB before one of them was looked at."""
    with pytest.raises(BadRequest, match=r"at most|that are none"):
        parsed(kind, raw)


images = st.lists(st.binary(max_size=3000).map(lambda data: pb.Image(data=data)), max_size=8)


@given(images, st.lists(st.text(max_size=9), max_size=90), st.integers(-(2**63), 2**63 - 1), st.binary(max_size=9))
def test_what_is_counted_is_what_protobuf_reads(
    images: list[pb.Image], outputs: list[str], version: int, noise: bytes
) -> None:
    """Each message that protobuf reads is read alike, whatever stands in it; and what is torn is refused."""
    message = pb.EmbedRequest(options=pb.EmbedOptions(outputs=outputs, version=version), images=images)
    padded = pb.Image(data=bytes(9000))
    message.images.append(padded)
    raw = message.SerializeToString()
    assert message == parsed(pb.EmbedRequest, raw)
    for torn in (raw[:-1], raw + noise, noise + raw):
        try:
            expected = pb.EmbedRequest.FromString(torn)
        except Exception:  # noqa: BLE001, whatever protobuf says to it
            with pytest.raises(BadRequest):
                parsed(pb.EmbedRequest, torn)
        else:
            assert expected == parsed(pb.EmbedRequest, torn)


async def code_of(call: Any) -> grpc.StatusCode:
    """Wait for a call's end."""
    return await asyncio.wait_for(call.code(), 10)


async def never() -> AsyncIterator[pb.EmbedStreamRequest]:
    """Send nothing."""
    await asyncio.Event().wait()
    yield pb.EmbedStreamRequest()


async def one_and_no_more() -> AsyncIterator[pb.EmbedStreamRequest]:
    """Send one image, and stay."""
    yield pb.EmbedStreamRequest(id="a", image=pb.Image(data=png()))
    await asyncio.Event().wait()


async def test_silent_streams_end(decoders: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that says nothing, and one that has said something: their places are free again."""
    monkeypatch.setattr(stream, "_LONGEST_SILENCE", 0.2)
    async with service_with(decoders, deadline=0.3) as service:
        calls = [service.stub.EmbedStream(never()), service.stub.EmbedStream(one_and_no_more())]
        answer = await asyncio.wait_for(calls[1].read(), 10)
        assert isinstance(answer, pb.EmbedStreamResponse)
        assert answer.id == "a"
        for call in calls:
            assert grpc.StatusCode.DEADLINE_EXCEEDED is await code_of(call)
        assert 0 == service.methods.calls._open
        assert not service.methods.calls._open_of


async def test_a_stream_whose_answers_are_not_read_ends(
    decoders: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would hold its images and its place for as long as its caller likes."""
    monkeypatch.setattr(stream, "_LONGEST_SILENCE", 0.3)

    async def images() -> AsyncIterator[pb.EmbedStreamRequest]:
        # Names of a kilobyte come back with each answer, more than the connection takes unread.
        for _ in range(3000):
            yield pb.EmbedStreamRequest(id="a" * 4000, image=pb.Image(data=png()))
        await asyncio.Event().wait()

    async with service_with(decoders, deadline=0.2) as service:
        call = service.stub.EmbedStream(images())
        async with asyncio.timeout(20):
            await service.until(lambda: service.methods.calls._open == 1)
            await service.until(lambda: service.methods.calls._open == 0)
        call.cancel()
    assert 0 == service.counted("microtome_body_bytes_in_flight")


@pytest.mark.parametrize("method", ["GetModel", "ModelReady", "ModelMetadata"])
async def test_a_call_that_does_not_say_what_it_asks_ends(decoders: ThreadPoolExecutor, method: str) -> None:
    """Of calls with one message, too; and a name of kilobytes is not read."""
    service_name = "microtome.v1.EmbeddingService" if method == "GetModel" else "inference.GRPCInferenceService"
    async with service_with(decoders, pause=0.1) as service:
        silent: Any = service.channel.stream_unary(f"/{service_name}/{method}")
        assert grpc.StatusCode.DEADLINE_EXCEEDED is await code_of(silent(never()))
        long: Any = service.channel.unary_unary(f"/{service_name}/{method}")
        assert grpc.StatusCode.INVALID_ARGUMENT is await code_of(long(inner(1, b"a" * 8190)))


@pytest.mark.parametrize("keys", [False, True])
async def test_one_caller_does_not_take_all_places(decoders: ThreadPoolExecutor, keys: bool) -> None:
    """Of a key's name or, without keys, of an address; other names still have theirs."""
    digest = {"one": "2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683"}
    records = read_keys([f"{name} sha256:{value}" for name, value in digest.items()])
    keyring = Keyring([*records, *read_keys([OTHER])]) if keys else None
    async with service_with(decoders, calls_each=2, keyring=keyring) as service, AsyncExitStack() as open_calls:
        own = (("x-api-key", "key"),) if keys else ()
        for _ in range(2):
            call = service.stub.EmbedStream(never(), metadata=own)
            open_calls.callback(call.cancel)
        await service.until(lambda: service.methods.calls._open == 2)
        third = service.stub.ListModels(pb.ListModelsRequest(), metadata=own)
        assert grpc.StatusCode.RESOURCE_EXHAUSTED is await code_of(third)
        assert 1 == service.counted("microtome_overloads_total", reason="caller-calls")
        if keys:
            other = service.stub.ListModels(pb.ListModelsRequest(), metadata=(("x-api-key", "other"),))
            assert grpc.StatusCode.OK is await code_of(other)


OTHER = "two sha256:d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa"


async def test_watchers_and_reflection_have_few_places(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond them a watcher learns that there is no watching: gRPC's clients go on without. Reflection has an end."""
    monkeypatch.setattr(server, "_MAX_SIDE_CALLS_EACH", 1)
    monkeypatch.setattr(server, "_REFLECTION_SECONDS", 0.1)
    health, reflection = HealthStub(service.channel), ServerReflectionStub(service.channel)
    first = health.Watch(health_pb2.HealthCheckRequest())
    assert health_pb2.HealthCheckResponse.SERVING == (await first.read()).status
    assert grpc.StatusCode.UNIMPLEMENTED is await code_of(health.Watch(health_pb2.HealthCheckRequest()))
    assert grpc.StatusCode.RESOURCE_EXHAUSTED is await code_of(reflection.ServerReflectionInfo(never()))
    first.cancel()
    await service.until(lambda: True)

    async def asked() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        await asyncio.Event().wait()

    for _ in range(50):
        call = reflection.ServerReflectionInfo(asked())
        answer = await call.read()
        if answer is not grpc.aio.EOF:
            break
        await asyncio.sleep(0.02)
    assert 3 <= len(answer.list_services_response.service)
    assert grpc.StatusCode.DEADLINE_EXCEEDED is await code_of(call)


async def test_compressed_messages_are_refused(service: Service) -> None:
    """Forty of 50 kB became 2 GB at a time in gRPC, before one of them was looked at. HTTP refuses them as well."""
    call = service.stub.Embed(pb.EmbedRequest(images=[pb.Image(data=png())]), compression=grpc.Compression.Gzip)
    assert grpc.StatusCode.UNIMPLEMENTED is await code_of(call)


async def test_messages_that_never_end_hold_little(decoders: ThreadPoolExecutor) -> None:
    """Forty of 4 MB held 160 MB in gRPC, and thirty of 60 MB the pod's 1.5 GB. Others are served meanwhile."""
    limits: Any = {"max_image_bytes": 4 << 20, "max_message_bytes": 4 << 20, "body_bytes_in_flight": 8 << 20}
    async with service_with(decoders, **limits, deadline=60) as service, AsyncExitStack() as open_connections:
        arriving = service.methods.calls.arriving
        large = [SlowCalls(service.port, 10, 4 << 20) for _ in range(4)]
        small = SlowCalls(service.port, 1, 100_000, path="/inference.GRPCInferenceService/ModelInfer")
        for each in (*large, small):
            open_connections.callback(each.close)
        sending = [asyncio.create_task(asyncio.to_thread(each.send, time.monotonic() + 20)) for each in (*large, small)]
        async with asyncio.timeout(15):
            await service.until(lambda: sum(len(each.ended) for each in large) >= 38)
            await service.until(lambda: 0 < arriving.held() <= 8 << 20)
        answer = await service.stub.Embed(pb.EmbedRequest(images=[pb.Image(data=png())]))
        assert 1 == len(answer.results)
        assert 38 <= service.counted("microtome_overloads_total", reason="arriving")
        assert not small.ended
        for each in (*large, small):
            each.close()
        await asyncio.gather(*sending)
        async with asyncio.timeout(15):
            await service.until(lambda: not arriving.held())
