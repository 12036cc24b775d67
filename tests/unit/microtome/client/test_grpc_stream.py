"""A stream of images: grouped as the server allows, bounded whichever side is slow, and ended when one side ends."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from microtome.client.grpc_stream import embed_stream
from microtome.v1 import embedding_pb2 as pb
from microtome.v1.embedding_pb2_grpc import EmbeddingServiceStub

MAX_BYTES = 300_000
Answering = Callable[[Any], Awaitable[None]]


@asynccontextmanager
async def stub_of(answer: Answering) -> AsyncIterator[Any]:
    """A stub of a server whose stream is answered by this function of its context."""

    async def handle(_: Any, context: Any) -> None:
        await answer(context)

    server = grpc.aio.server()
    handlers: Any = {"EmbedStream": grpc.stream_stream_rpc_method_handler(handle)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("microtome.v1.EmbeddingService", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
            yield EmbeddingServiceStub(channel)
    finally:
        await server.stop(0)


class Echo:
    """Answers every message by one with all its ids, and notes the images of each and their bytes."""

    def __init__(self, max_images: int) -> None:
        self._limit = pb.EmbedStreamResponse(max_images=max_images, max_bytes=MAX_BYTES)
        self.groups: list[int] = []
        self.bytes: list[int] = []
        self.options = pb.EmbedOptions()

    async def __call__(self, context: Any) -> None:
        """Answer one stream."""
        first = pb.EmbedStreamRequest.FromString(await context.read())
        assert first.reads_more
        self.options = first.options
        while (raw := await context.read()) is not grpc.aio.EOF:
            message = pb.EmbedStreamRequest.FromString(raw)
            images: list[Any] = [message, *message.more]
            self.bytes.append(sum(len(each.image.data) for each in images))
            answers = [pb.StreamAnswer(id=each.id) for each in images]
            response = pb.EmbedStreamResponse(id=answers[0].id, more=answers[1:])
            if not self.groups:
                response.MergeFrom(self._limit)
            self.groups.append(len(images))
            await context.write(response.SerializeToString())


def images(count: int, size: int = 10) -> Iterator[tuple[str, bytes]]:
    """So many images with their numbers as ids."""
    return ((str(number), bytes(size)) for number in range(count))


@pytest.mark.parametrize(("server_takes", "under_way", "least", "most"), [(4, 64, 4, 4), (32, 8, 2, 4), (1, 64, 1, 1)])
async def test_messages_hold_as_many_images_as_both_sides_allow(
    server_takes: int, under_way: int, least: int, most: int
) -> None:
    """From the server's first answer on: between a quarter and a half of those under way, while there are more."""
    server = Echo(server_takes)
    async with stub_of(server) as stub:
        stream = embed_stream(stub, images(300), pb.EmbedOptions(model="m"), under_way=under_way)
        assert [str(number) for number in range(300)] == [answer.id async for answer in stream]
    assert (1, 300) == (server.groups[0], sum(server.groups))
    # Those before the answer is there are alone, and the last are what is left.
    assert all(least <= size <= most for size in server.groups[under_way : -under_way // least or None])
    assert most >= max(server.groups)
    assert "m" == server.options.model


async def test_an_image_that_is_alone_goes_at_once() -> None:
    """While others are under way, however few there are: only images that lack a place wait for each other."""
    server = Echo(32)
    answered: asyncio.Queue[str] = asyncio.Queue()

    async def one_by_one() -> AsyncIterator[tuple[str, bytes]]:
        for name, image in images(10):
            yield name, image
            assert name == await answered.get()

    async with stub_of(server) as stub, asyncio.timeout(10):
        async for answer in embed_stream(stub, one_by_one(), under_way=64):
            answered.put_nowait(answer.id)
        async for answer in embed_stream(stub, images(1), under_way=1):
            assert "0" == answer.id
    assert [1] * 11 == server.groups


async def test_messages_of_several_images_are_short() -> None:
    """As the server says; an image that is larger than a message of several may be goes alone."""
    server = Echo(32)
    sizes = [10, *[MAX_BYTES // 3] * 40, 2 * MAX_BYTES, 10]
    async with stub_of(server) as stub:
        given = [(str(number), bytes(size)) for number, size in enumerate(sizes)]
        # Three are a quarter of those under way, for which a slow server's answers are waited for as well.
        assert len(sizes) == len([answer async for answer in embed_stream(stub, given, under_way=12)])
    assert 3 == max(server.groups)
    assert all(size <= MAX_BYTES or group == 1 for size, group in zip(server.bytes, server.groups, strict=True))


@pytest.mark.parametrize("kind", ["ordinary", "asynchronous"])
async def test_no_more_images_are_held_than_may_be_under_way(kind: str) -> None:
    """While the answers are not taken, nothing is read from the images; an endless iterable is no mistake."""
    read = 0

    def endless() -> Iterator[tuple[str, bytes]]:
        nonlocal read
        while True:
            read += 1
            yield str(read), b"image"

    async def later() -> AsyncIterator[tuple[str, bytes]]:
        for image in endless():
            await asyncio.sleep(0)
            yield image

    server = Echo(4)
    async with stub_of(server) as stub:
        stream = embed_stream(stub, endless() if kind == "ordinary" else later(), under_way=8)
        for taken in range(1, 51):
            assert (await anext(stream)).id
            # One beside those under way is in the hand of the task that waits for a place.
            assert read <= taken + 8 + 4 + 1
        await stream.aclose()


async def test_what_the_images_fail_with_is_raised() -> None:
    """And the server is told that nothing more comes."""
    answered, gone = asyncio.Event(), asyncio.Event()
    server = Echo(4)

    async def answer(context: Any) -> None:
        try:
            await server(context)
        finally:
            gone.set()

    async def failing() -> AsyncIterator[tuple[str, bytes]]:
        for image in images(3):
            yield image
        await answered.wait()
        raise OSError("the disk is gone")

    async def all_of(stub: Any) -> None:
        async for _ in embed_stream(stub, failing()):
            answered.set()

    async with stub_of(answer) as stub:
        with pytest.raises(OSError, match="the disk is gone"):
            await all_of(stub)
        async with asyncio.timeout(10):
            await gone.wait()


async def test_who_stops_early_ends_the_stream() -> None:
    """The server's side is cancelled, and no task is left."""
    gone = asyncio.Event()

    async def answer(context: Any) -> None:
        try:
            await Echo(4)(context)
        finally:
            gone.set()

    async with stub_of(answer) as stub:
        before = asyncio.all_tasks()
        stream = embed_stream(stub, images(10_000))
        await anext(stream)
        await stream.aclose()
        async with asyncio.timeout(10):
            await gone.wait()
        assert {task.get_name() for task in asyncio.all_tasks() - before if "outgoing" in str(task.get_coro())} == set()


async def test_how_the_server_ends_the_stream_is_raised() -> None:
    """With its status; what was answered before has been given out."""

    async def answer(context: Any) -> None:
        await context.read()
        message = pb.EmbedStreamRequest.FromString(await context.read())
        await context.write(pb.EmbedStreamResponse(id=message.id).SerializeToString())
        await context.abort(grpc.StatusCode.UNAVAILABLE, "stopping")

    found = []

    async def read_all(stub: Any) -> None:
        async for each in embed_stream(stub, images(1)):
            found.append(each.id)  # noqa: PERF401, kept when the stream fails

    async with stub_of(answer) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read_all(stub)
    assert (["0"], grpc.StatusCode.UNAVAILABLE) == (found, caught.value.code())


async def test_a_cancelled_caller_stays_cancelled() -> None:
    """Its cancellation is not taken for the stream's end."""

    async def answer(context: Any) -> None:
        while await context.read() is not grpc.aio.EOF:
            pass

    async def read_all(stub: Any) -> None:
        async for _ in embed_stream(stub, images(10)):
            pass

    async with stub_of(answer) as stub:
        task = asyncio.create_task(read_all(stub))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
