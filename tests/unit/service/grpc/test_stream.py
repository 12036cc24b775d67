"""EmbedStream: answers by id, bad images beside good ones, and never more in memory than there are places."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from grpc import StatusCode

from microtome.errors import ModelServerDown, Overloaded
from microtome.v1 import embedding_pb2 as pb
from tests.fakes.model_server import card
from tests.pictures import png
from tests.unit.service.grpc.conftest import Service, reason_of, service_with, status_of, unpacked

Stream = Any
"""grpc.aio's call of this method, whose generic types say nothing more."""


def message(image: bytes, name: str, **more: Any) -> pb.EmbedStreamRequest:
    """An image under a name."""
    return pb.EmbedStreamRequest(id=name, image=pb.Image(data=image), **more)


def first(**options: Any) -> pb.EmbedStreamRequest:
    """A first message that holds options only."""
    return pb.EmbedStreamRequest(options=pb.EmbedOptions(**options))


async def answers(stream: Stream) -> dict[str, pb.EmbedStreamResponse]:
    """All answers of a stream by id."""
    return {answer.id: answer async for answer in stream}


async def said(service: Service, *messages: pb.EmbedStreamRequest, **how: Any) -> dict[str, pb.EmbedStreamResponse]:
    """Say these messages, and return what is answered."""
    return await answers(service.stub.EmbedStream(iter(messages), **how))


async def ending(stream: Stream) -> grpc.aio.AioRpcError:
    """How a stream fails."""

    async def read_all() -> None:
        while await stream.read() is not grpc.aio.EOF:
            pass

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read_all()
    return caught.value


def images(names: Iterable[str]) -> list[pb.EmbedStreamRequest]:
    """An image of its own for every name."""
    return [message(png(seed), name) for seed, name in enumerate(names)]


async def test_every_image_is_answered_under_its_id(service: Service) -> None:
    """With the vector that a request of its own gets, from a model that is named beside it."""
    names = [f"image {number}" for number in range(20)]
    found = await said(service, first(outputs=["corner"], dimensions=2), *images(names))
    assert set(names) == set(found)
    for seed, name in enumerate(names):
        alone = await service.stub.Embed(
            pb.EmbedRequest(
                options=pb.EmbedOptions(outputs=["corner"], dimensions=2), images=[pb.Image(data=png(seed))]
            )
        )
        assert alone.results[0].embeddings[0].data == found[name].result.embeddings[0].data
        assert ("toy", 1) == (found[name].model.name, found[name].model.version)


async def test_the_first_message_may_hold_an_image_as_well(service: Service) -> None:
    """And an empty stream is no mistake."""
    options = pb.EmbedOptions(normalize=True)
    found = await said(service, message(png(), "a", options=options), message(png(), "b"))
    for name in "ab":
        numbers = np.frombuffer(found[name].result.embeddings[0].data, "<f4")
        np.testing.assert_allclose(1.0, np.linalg.norm(numbers), rtol=1e-6)
    assert {} == await said(service)
    assert {} == await said(service, first())


async def test_answers_come_as_they_are_ready(service: Service) -> None:
    """What is in the cache overtakes what has to be computed."""
    await said(service, message(png(1), "known"))
    service.server.gate.clear()
    stream: Stream = service.stub.EmbedStream()
    await stream.write(message(png(2), "slow"))
    await service.server.called(2)
    await stream.write(message(png(1), "known"))
    assert "known" == (await stream.read()).id
    service.server.gate.set()
    assert "slow" == (await stream.read()).id
    await stream.done_writing()
    assert grpc.aio.EOF == await stream.read()


async def test_what_is_in_memory_needs_no_room(decoders: ThreadPoolExecutor) -> None:
    """It is answered while something else takes all the places that there are for images."""
    async with service_with(decoders, images_in_flight=1) as service:
        await said(service, message(png(1), "known"))
        service.server.gate.clear()
        stream: Stream = service.stub.EmbedStream()
        await stream.write(message(png(2), "slow"))
        await service.server.called(2)
        await stream.write(message(png(1), "known"))
        found = await stream.read()
        assert ("known", pb.CACHE_RESULT_HIT) == (found.id, found.result.embeddings[0].cache)
        service.server.gate.set()
        assert "slow" == (await stream.read()).id


async def test_a_stopping_gateway_does_not_break_off_in_an_answer(service: Service) -> None:
    """All hits that were read are answered whole, however many are under way; then the caller is told."""
    await said(service, message(png(1), "known"))
    stream: Stream = service.stub.EmbedStream()
    for number in range(40):
        await stream.write(message(png(1), str(number)))
    found = [(await stream.read()).id]
    service.stopping.set()

    async def read_on() -> None:
        while (answer := await stream.read()) is not grpc.aio.EOF:
            found.append(answer.id)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read_on()
    error = caught.value
    assert (StatusCode.UNAVAILABLE, "MODEL_SERVER_DOWN") == (error.code(), reason_of(status_of(error)))
    assert found == [str(number) for number in range(len(found))]


async def test_a_bad_image_is_answered_by_its_error_and_the_stream_goes_on(service: Service) -> None:
    """Whatever is wrong with it: no image, too large, nothing at all."""
    bad = {"a": b"no image", "b": b"x" * 6_000, "c": b"", "d": png(width=200, height=200)}
    found = await said(service, *(message(image, name) for name, image in bad.items()), message(png(), "good"))
    reasons = {name: reason_of(answer.result.error) for name, answer in found.items() if name != "good"}
    assert {"a": "NOT_AN_IMAGE", "b": "IMAGE_TOO_LARGE", "c": "BAD_REQUEST", "d": "IMAGE_TOO_LARGE"} == reasons
    assert 1 == len(found["good"].result.embeddings)
    assert "Image 0" not in found["a"].result.error.message


async def test_what_is_unforeseen_harms_one_image(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is answered INTERNAL with an id that the log has, and the next one is answered well."""
    real = service.server.infer

    async def broken_once(*arguments: Any) -> Any:
        monkeypatch.setattr(service.server, "infer", real)
        raise RuntimeError("a secret of ours")

    monkeypatch.setattr(service.server, "infer", broken_once)
    stream: Stream = service.stub.EmbedStream()
    await stream.write(message(png(1), "broken"))
    broken = (await stream.read()).result.error
    assert (StatusCode.INTERNAL.value[0], "INTERNAL_ERROR") == (broken.code, reason_of(broken))
    assert "secret" not in str(broken)
    await stream.write(message(png(2), "good"))
    assert (await stream.read()).result.embeddings
    await stream.done_writing()
    assert StatusCode.OK == await stream.code()


async def test_wrong_options_end_the_stream(service: Service) -> None:
    """At its beginning; options that come later, and a message that is none, when all before is answered."""
    for options, reason in (
        ({"model": "other"}, "UNKNOWN_MODEL"),
        ({"dimensions": 99}, "BAD_REQUEST"),
        ({"on_error": pb.ON_ERROR_FAIL}, "BAD_REQUEST"),
    ):
        error = await ending(service.stub.EmbedStream(iter([first(**options)])))
        assert reason == reason_of(status_of(error))
    stream: Stream = service.stub.EmbedStream(iter([message(png(), "a"), message(png(), "b", options={})]))
    assert "a" == (await stream.read()).id
    assert "BAD_REQUEST" == reason_of(status_of(await ending(stream)))
    raw: Any = service.channel.stream_stream("/microtome.v1.EmbeddingService/EmbedStream")
    assert "BAD_REQUEST" == reason_of(status_of(await ending(raw(iter([b"", b"\xff\xff"])))))


async def test_each_answer_bears_the_version_that_made_it(service: Service) -> None:
    """A stream outlives a change of versions."""
    stream: Stream = service.stub.EmbedStream()
    await stream.write(message(png(1), "old"))
    assert 1 == (await stream.read()).model.version
    service.server.next = card(version=2)
    await stream.write(message(png(2), "new"))
    new = await stream.read()
    assert (2, card(version=2).manifest.fingerprint) == (new.model.version, new.model.fingerprint)
    await stream.done_writing()
    assert StatusCode.OK == await stream.code()


async def test_no_more_images_are_read_than_there_are_places(service: Service) -> None:
    """The others wait with the caller, whose writes stop when the connection's windows are full."""
    service.server.gate.clear()
    stream: Stream = service.stub.EmbedStream(iter(images(map(str, range(50)))))
    await service.server.called(1)
    await service.until(lambda: service.counted("microtome_images_in_flight") == 4)
    # Whatever the server were to read beyond its places would be in flight by the time that another call is answered.
    for _ in range(20):
        await service.stub.ListModels(pb.ListModelsRequest())
    assert 4 == service.counted("microtome_images_in_flight")
    service.server.gate.set()
    assert 50 == len(await answers(stream))


async def test_in_a_stream_overload_means_to_wait(decoders: ThreadPoolExecutor) -> None:
    """Images beyond what may be in flight are not refused: reading stops until there is room."""
    async with service_with(decoders, images_in_flight=2, body_bytes_in_flight=2_000) as service:
        service.server.gate.clear()
        busy = asyncio.ensure_future(
            service.stub.Embed(pb.EmbedRequest(images=[pb.Image(data=png(98)), pb.Image(data=png(99))]))
        )
        await service.server.called(1)
        waiting = asyncio.ensure_future(said(service, *images(map(str, range(8)))))
        refused = service.stub.Embed(pb.EmbedRequest(images=[pb.Image(data=png(97))]))
        with pytest.raises(grpc.aio.AioRpcError):
            await refused
        service.server.gate.set()
        found = await waiting
        assert [0] * 8 == [found[str(number)].result.error.code for number in range(8)]
        assert 2 == len((await busy).results)


async def test_room_that_never_comes_is_answered_overloaded(decoders: ThreadPoolExecutor) -> None:
    """When an image's time is over; the stream goes on."""
    async with service_with(decoders, deadline=0.2) as service:
        service.server.failure = Overloaded("full", retry_after=3)
        stream: Stream = service.stub.EmbedStream()
        await stream.write(message(png(1), "refused"))
        error = (await stream.read()).result.error
        assert (StatusCode.RESOURCE_EXHAUSTED.value[0], "OVERLOADED") == (error.code, reason_of(error))
        assert 3 == unpacked(error, RetryInfo()).retry_delay.seconds
        service.server.failure = None
        await stream.write(message(png(2), "good"))
        assert (await stream.read()).result.embeddings
        service.server.gate.clear()
        await stream.write(message(png(3), "slow"))
        assert "DEADLINE_EXCEEDED" == reason_of((await stream.read()).result.error)
        await stream.done_writing()
        assert StatusCode.OK == await stream.code()


async def test_a_model_server_that_is_down_harms_no_later_image(service: Service) -> None:
    """Each image in the meantime is answered UNAVAILABLE, to be sent again."""
    stream: Stream = service.stub.EmbedStream()
    service.server.failure = ModelServerDown("down")
    await stream.write(message(png(1), "lost"))
    error = (await stream.read()).result.error
    assert (StatusCode.UNAVAILABLE.value[0], "MODEL_SERVER_DOWN") == (error.code, reason_of(error))
    service.server.failure = None
    await stream.write(message(png(1), "again"))
    assert (await stream.read()).result.embeddings
    stream.cancel()


async def test_a_caller_that_goes_away_cancels_its_stream(service: Service) -> None:
    """Nothing stays in flight, and no byte stays held."""
    service.server.gate.clear()
    stream: Stream = service.stub.EmbedStream(iter(images("abcdef")))
    await service.server.called(1)
    stream.cancel()
    await service.until(lambda: service.counted("microtome_requests_total", route="grpc:EmbedStream", status="499"))
    assert 0 == service.counted("microtome_images_in_flight")
    assert 0 == service.counted("microtome_body_bytes_in_flight")


async def test_a_streams_own_deadline_ends_it(service: Service) -> None:
    """As gRPC has it or, if the gateway's clock is first, with that error for each image; nothing is left under way."""
    service.server.gate.clear()
    stream: Stream = service.stub.EmbedStream(iter(images("ab")), timeout=0.2)
    answers: list[pb.EmbedStreamResponse] = []
    try:
        while (answer := await stream.read()) is not grpc.aio.EOF:
            answers.append(answer)
        assert {"a", "b"} == {answer.id for answer in answers}
    except grpc.aio.AioRpcError as error:
        assert StatusCode.DEADLINE_EXCEEDED == error.code()  # noqa: PT017, the other of the two ways to end
    assert {StatusCode.DEADLINE_EXCEEDED.value[0]} >= {answer.result.error.code for answer in answers}
    await service.until(lambda: not service.counted("microtome_images_in_flight"))


async def test_a_stopping_gateway_answers_what_it_has_read(service: Service) -> None:
    """And then says UNAVAILABLE, so that the caller sends the rest elsewhere; a stream that has said all ends well."""
    service.server.gate.clear()
    open_stream: Stream = service.stub.EmbedStream()
    await open_stream.write(message(png(1), "a"))
    await service.server.called(1)
    complete = asyncio.ensure_future(said(service, message(png(2), "b")))
    await service.server.called(2)
    # That the second has said all comes behind its image, and its arrival cannot be seen.
    await asyncio.sleep(0.2)
    service.stopping.set()
    service.server.gate.set()
    assert (await open_stream.read()).result.embeddings
    error = await ending(open_stream)
    assert (StatusCode.UNAVAILABLE, "MODEL_SERVER_DOWN") == (error.code(), reason_of(status_of(error)))
    assert ["b"] == list(await complete)


async def test_each_image_is_counted_as_a_request(decoders: ThreadPoolExecutor) -> None:
    """By its own status; in the access log the stream is one line."""
    async with service_with(decoders, log_access=True) as service:

        async def three() -> AsyncIterator[pb.EmbedStreamRequest]:
            for name, image in (("a", png(1)), ("b", b"no image"), ("c", png(2))):
                yield message(image, name)

        await answers(service.stub.EmbedStream(three()))
        assert 2 == service.counted("microtome_requests_total", route="grpc:EmbedStream", status="200")
        assert 1 == service.counted("microtome_requests_total", route="grpc:EmbedStream", status="400")
        assert 3 == service.counted("microtome_request_seconds_count", route="grpc:EmbedStream")
        (line,) = service.log.events
        assert ("grpc:EmbedStream", "OK", 3) == tuple(line[name] for name in ("route", "status", "images"))
