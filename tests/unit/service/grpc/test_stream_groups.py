"""EmbedStream with several images in a message: each is treated as if it had come alone, only their way is shared."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc import StatusCode

from microtome.v1 import embedding_pb2 as pb
from service.cache.coalescing import CoalescingCache
from service.cache.memory import MemoryCache
from service.grpc.encoding import MAX_MESSAGE_BYTES, Answer, StreamWriter
from tests.pictures import png
from tests.unit.service.grpc.conftest import Service, reason_of, service_with, status_of
from tests.unit.service.grpc.test_stream import Stream, answers, ending, message


def group(images: Mapping[str, bytes]) -> pb.EmbedStreamRequest:
    """One message with several images, the first of them where old servers look for it."""
    (name, image), *more = images.items()
    return message(image, name, more=[pb.StreamImage(id=name, image=pb.Image(data=data)) for name, data in more])


Several = list[pb.EmbedStreamResponse | pb.StreamAnswer]


async def read(stream: Stream) -> Several:
    """The answers of the next message, none after the last."""
    response = await stream.read()
    return [] if response == grpc.aio.EOF else [response, *response.more]


async def rest(stream: Stream) -> list[Several]:
    """The answers of each further message of a stream to which nothing more is said."""
    await stream.done_writing()
    found = []
    while several := await read(stream):
        found.append(several)
    return found


def ids(messages: Sequence[Several]) -> list[list[str]]:
    """The ids in each of these messages."""
    return [[answer.id for answer in several] for several in messages]


async def known(service: Service, images: Iterable[bytes]) -> None:
    """Have these images in memory."""
    await answers(service.stub.EmbedStream(iter([message(image, str(number)) for number, image in enumerate(images)])))


async def opened(service: Service, **options: Any) -> Stream:
    """A stream whose caller reads several answers in a message."""
    stream: Stream = service.stub.EmbedStream()
    await stream.write(pb.EmbedStreamRequest(reads_more=True, options=pb.EmbedOptions(**options)))
    return stream


async def test_the_first_answer_says_how_many_images_a_message_may_hold(decoders: ThreadPoolExecutor) -> None:
    """Half of those under way, no more than a request may have, and no more bytes; to a caller that asked, and once."""
    for stream_images, most in ((4, 2), (5, 2), (1, 1), (100, 3)):
        async with service_with(decoders, stream_images=stream_images) as service:
            asking = [message(png(1), "a", reads_more=True), message(png(1), "b")]
            said = [(each.max_images, each.max_bytes) async for each in service.stub.EmbedStream(iter(asking))]
            assert [(most, 9_000), (0, 0)] == said
            silent = [message(png(1), "a"), message(png(1), "b")]
            said = [(each.max_images, each.max_bytes) async for each in service.stub.EmbedStream(iter(silent))]
            assert [(0, 0), (0, 0)] == said


async def test_hits_of_one_message_are_answered_in_one(service: Service) -> None:
    """In its order, each with its own id, vector and model, as one message for each would have had it."""
    images = {"a": png(1), "b": png(2)}
    await known(service, images.values())
    alone = await answers(service.stub.EmbedStream(iter([message(image, name) for name, image in images.items()])))
    stream = await opened(service)
    await stream.write(group(images))
    (found,) = await rest(stream)
    assert [(alone[name].id, alone[name].model, alone[name].result) for name in "ab"] == [
        (answer.id, answer.model, answer.result) for answer in found
    ]


async def test_a_caller_that_reads_one_answer_a_message_gets_one(service: Service) -> None:
    """Also when it sends several images in a message."""
    images = {"a": png(1), "b": png(2)}
    await known(service, images.values())
    stream: Stream = service.stub.EmbedStream()
    await stream.write(group(images))
    assert [["a"], ["b"]] == ids(await rest(stream))


async def test_images_of_one_message_know_nothing_of_each_other(decoders: ThreadPoolExecutor) -> None:
    """One that is known overtakes one that is not, and a bad one harms neither."""
    async with service_with(decoders, stream_images=8) as service:
        await known(service, [png(1)])
        service.server.gate.clear()
        stream = await opened(service)
        await stream.write(group({"slow": png(2), "known": png(1), "bad": b"no image"}))
        early = [await read(stream), await read(stream)]
        assert [["known"], ["bad"]] == ids(early)
        error = early[1][0].result.error
        assert ("NOT_AN_IMAGE", False) == (reason_of(error), "Image 0" in error.message)
        service.server.gate.set()
        ((slow,),) = [await read(stream)]
        assert ("slow", pb.CACHE_RESULT_MISS) == (slow.id, slow.result.embeddings[0].cache)
        await stream.write(group({"large": b"x" * 6_000, "empty": b"", "slow": png(2)}))
        found = {answer.id: answer.result for several in await rest(stream) for answer in several}
        assert {"large": "IMAGE_TOO_LARGE", "empty": "BAD_REQUEST"} == {
            name: reason_of(result.error) for name, result in found.items() if result.HasField("error")
        }
        assert pb.CACHE_RESULT_HIT == found["slow"].embeddings[0].cache


async def test_equal_images_of_one_message_are_all_answered(service: Service) -> None:
    """Computed once, found in memory later."""
    for _ in range(2):
        found = await answers(service.stub.EmbedStream(iter([group({"a": png(1), "b": png(1)})])))
        assert found["a"].result.embeddings[0].data == found["b"].result.embeddings[0].data
    assert 1 == len(service.server.calls)


async def test_more_images_than_a_message_may_hold_end_the_stream(service: Service) -> None:
    """When all that came before has been answered; nothing of the message is."""
    stream: Stream = service.stub.EmbedStream(
        iter([message(png(), "a"), group({str(number): png(number) for number in range(3)})])
    )
    assert "a" == (await stream.read()).id
    assert "TOO_MANY_IMAGES" == reason_of(status_of(await ending(stream)))


async def test_a_message_with_more_images_than_free_places_waits_for_them(service: Service) -> None:
    """No image gets a place that is not there, and the places come from answers, which do not wait for the reader."""
    service.server.gate.clear()
    stream = await opened(service)
    for name in "abc":
        await stream.write(message(png(ord(name)), name))
    await stream.write(group({"d": png(1), "e": png(2)}))
    await service.until(lambda: service.counted("microtome_images_in_flight") == 3)
    for _ in range(20):
        await service.stub.ListModels(pb.ListModelsRequest())
    assert 3 == service.counted("microtome_images_in_flight"), "one place is free, and the message needs two"
    service.server.gate.set()
    assert sorted("abcde") == sorted(name for names in ids(await rest(stream)) for name in names)


async def test_images_of_one_message_wait_for_room_one_by_one(decoders: ThreadPoolExecutor) -> None:
    """None is refused, and no byte more is held than there may be."""
    async with service_with(decoders, stream_images=8, max_images=4, body_bytes_in_flight=1_000) as service:
        images = {str(number): png(number, width=16, height=16) for number in range(4)}
        assert sum(map(len, images.values())) > 1_000 > 2 * max(map(len, images.values())) > 0
        stream = await opened(service)
        await stream.write(group(images))
        found = [answer for several in await rest(stream) for answer in several]
        assert set(images) == {each.id for each in found}
        assert not any(each.result.HasField("error") for each in found)
        assert 0 == service.counted("microtome_body_bytes_in_flight")


async def test_room_that_never_comes_is_waited_for_once_a_message(decoders: ThreadPoolExecutor) -> None:
    """Not as long again for each of its images."""
    async with service_with(decoders, stream_images=8, body_bytes_in_flight=1_000, deadline=0.3) as service:
        held = service.methods.intake.bodies.hold(1_000)
        with held:
            stream = await opened(service)
            await stream.write(group({"a": png(1), "b": png(2), "c": png(3)}))
            async with asyncio.timeout(0.3 * 2.5):
                found = await read(stream)
                while len(found) < 3:
                    found += await read(stream)
            assert ["OVERLOADED"] * 3 == [reason_of(answer.result.error) for answer in found]
            stream.cancel()


async def test_a_stopping_gateway_answers_all_of_a_message(service: Service) -> None:
    """Also those images of it that still wait for a place when the word comes."""
    service.server.gate.clear()
    stream = await opened(service)
    for name in "abc":
        await stream.write(message(png(ord(name)), name))
    await service.until(lambda: service.counted("microtome_images_in_flight") == 3)
    await stream.write(group({"d": png(1), "e": png(2)}))
    for _ in range(20):
        await service.stub.ListModels(pb.ListModelsRequest())
    service.stopping.set()
    service.server.gate.set()
    found: list[str] = []

    async def read_all() -> None:
        while several := await read(stream):
            found.extend(answer.id for answer in several)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read_all()
    assert sorted("abcde") == sorted(found)
    error = caught.value
    assert (StatusCode.UNAVAILABLE, "MODEL_SERVER_DOWN") == (error.code(), reason_of(status_of(error)))


async def test_each_image_of_a_message_is_counted(service: Service) -> None:
    """As if it had come alone."""
    await known(service, [png(1), png(2)])
    before = service.counted("microtome_request_seconds_count", route="grpc:EmbedStream")
    stream = await opened(service)
    await stream.write(group({"a": png(1), "b": png(2)}))
    await rest(stream)
    assert 2 == service.counted("microtome_request_seconds_count", route="grpc:EmbedStream") - before
    assert 4 == service.counted("microtome_requests_total", route="grpc:EmbedStream", status="200")
    assert 2 == service.counted("microtome_vectors_total", model="toy", cache="hit")


class CountedQuestions(MemoryCache):
    """A cache that is out of reach, and counts how often it is asked."""

    peek = None  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__(1 << 20)
        self.questions: list[int] = []

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Note a question."""
        self.questions.append(len(keys))
        return await super().get_many(keys)


async def test_images_of_one_message_are_looked_up_together(decoders: ThreadPoolExecutor) -> None:
    """One question to Redis for all of them, as it gathers what is asked at the same time."""
    far = CountedQuestions()
    async with service_with(decoders, stream_images=8, max_images=4, cache=CoalescingCache(far)) as service:
        images = {str(number): png(number) for number in range(4)}
        for source in (pb.CACHE_RESULT_MISS, pb.CACHE_RESULT_HIT):
            far.questions.clear()
            stream = await opened(service)
            await stream.write(group(images))
            found = [answer for several in await rest(stream) for answer in several]
            assert [source] * 4 == [answer.result.embeddings[0].cache for answer in found]
            assert [4] == far.questions


async def test_what_is_ready_meanwhile_goes_out_together() -> None:
    """In messages of at most a megabyte, unless a single answer is larger; its writer does not wait."""
    messages: list[list[int]] = []
    written: list[str] = []
    writable = asyncio.Event()

    async def write(raw: bytes) -> None:
        answer = pb.EmbedStreamResponse.FromString(raw)
        several: Several = [answer, *answer.more]
        messages.append([int(each.id) for each in several])
        await writable.wait()

    outbox = StreamWriter(
        write, lambda answer: written.append(answer.name), announcing=pb.EmbedStreamResponse(max_images=8)
    )
    sizes = [10, 10, MAX_MESSAGE_BYTES // 2, MAX_MESSAGE_BYTES // 2 + 1, 2 * MAX_MESSAGE_BYTES, 10]
    bodies = [
        pb.StreamAnswer(result=pb.ImageResult(embeddings=[pb.Embedding(data=bytes(size))])).SerializeToString()
        for size in sizes
    ]
    writing = asyncio.create_task(outbox.put([Answer("0", bodies[0], 0, 0.0)]))
    await asyncio.sleep(0)
    for number, body in enumerate(bodies[1:], 1):
        await outbox.put([Answer(str(number), body, 0, 0.0)])
    assert (["0"], []) == ([str(number) for number in messages[0]], written)
    writable.set()
    await writing
    assert [[0], [1, 2], [3], [4], [5]] == messages
    assert [str(number) for number in range(6)] == written
