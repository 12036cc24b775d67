"""EmbedStream over a stub of the caller's own: any number of images on one call, several in a message.

gRPC's cost is per message, so images share messages where the server accepts that. There is no timer: while more images
are ready than may be under way, the sender waits until a quarter of the places is free and sends their images together.
A single image is sent immediately.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from microtome.client.async_client import asynchronously
from microtome.v1 import embedding_pb2 as messages

if TYPE_CHECKING:
    # Only the type stubs define it.
    from microtome.v1.embedding_pb2_grpc import EmbeddingServiceAsyncStub


async def embed_stream(
    stub: "EmbeddingServiceAsyncStub",
    images: AsyncIterable[tuple[str, bytes]] | Iterable[tuple[str, bytes]],
    options: messages.EmbedOptions | None = None,
    *,
    under_way: int = 64,
    **how: Any,  # noqa: ANN401, as the stub has it
) -> AsyncGenerator[messages.EmbedStreamResponse | messages.StreamAnswer, None]:
    """Embed images over one stream, holding at most `under_way` of them.

    Args:
        stub: over a channel of `grpc.aio`.
        images: pairs of an id, which the answer carries, and a file's bytes. An ordinary iterable must not block.
        options: for all of them.
        under_way: most images sent and not answered. `images` is not read further while answers are not consumed.
        how: `timeout` of the whole stream, `metadata` and other arguments of the stub's method.

    Yields:
        answers in the order in which they are ready: `id`, `model`, and `result` with an image's vectors or its error.

    Raises:
        grpc.aio.AioRpcError: the stream has ended; send images without an answer again on a new one. The code is
            INTERNAL, whatever the server sent, when the stream ends during a write.
    """
    call: Any = stub.EmbedStream(**how)
    outgoing = _Outgoing(call, under_way)
    sending = asyncio.gather(outgoing.gather(images), outgoing.write(options or messages.EmbedOptions()))
    # Cancel the call when sending fails: otherwise the loop below would wait for responses for ever.
    sending.add_done_callback(lambda done: done.cancelled() or not done.exception() or call.cancel())
    try:
        async for response in call:
            answers = [response, *response.more]
            outgoing.answered(len(answers), response)
            for answer in answers:
                yield answer
    except asyncio.CancelledError:
        if sending.done() and not sending.cancelled() and (error := sending.exception()):
            raise error from None
        raise
    finally:
        sending.cancel()
        call.cancel()
        await asyncio.gather(sending, return_exceptions=True)


class _Outgoing:
    """Images that wait to be sent, and the places for images under way."""

    def __init__(self, call: Any, under_way: int) -> None:  # noqa: ANN401, gRPC's types say nothing
        self._call = call
        self._places = asyncio.Semaphore(under_way)
        # At most half of the places, so that the next images are sent while these are answered. At least a quarter
        # when no place is free: images answered one by one would otherwise be sent one by one.
        self._own_most, self._own_least = max(1, under_way // 2), max(1, under_way // 4)
        self._most, self._most_bytes = 1, 0
        self._ready: deque[messages.StreamImage] = deque()
        self._news = asyncio.Event()
        self._complete = False

    def answered(self, images: int, response: messages.EmbedStreamResponse) -> None:
        """Free the places of answered images, and read the server's limits for a message."""
        for _ in range(images):
            self._places.release()
        if response.max_images:
            self._most, self._most_bytes = min(response.max_images, self._own_most), response.max_bytes
        self._news.set()

    async def gather(self, images: AsyncIterable[tuple[str, bytes]] | Iterable[tuple[str, bytes]]) -> None:
        """Take images while places are free."""
        async for name, image in asynchronously(images):
            await self._places.acquire()
            self._ready.append(messages.StreamImage(id=name, image=messages.Image(data=image)))
            self._news.set()
        self._complete = True
        self._news.set()

    async def write(self, options: messages.EmbedOptions) -> None:
        """Write the options, then the images that are ready, until there are no more."""
        await self._call.write(messages.EmbedStreamRequest(options=options, reads_more=True))
        while await self._due():
            first, *more = self._next()
            await self._call.write(messages.EmbedStreamRequest(id=first.id, image=first.image, more=more))
        await self._call.done_writing()

    async def _due(self) -> bool:
        """Wait until a message should be sent; return whether there is one."""
        while not self._complete and (
            not self._ready or (self._places.locked() and len(self._ready) < min(self._most, self._own_least))
        ):
            self._news.clear()
            await self._news.wait()
        return bool(self._ready)

    def _next(self) -> Sequence[messages.StreamImage]:
        found = [self._ready.popleft()]
        size = len(found[0].image.data)
        while (
            self._ready
            and len(found) < self._most
            and (size := size + len(self._ready[0].image.data)) <= self._most_bytes
        ):
            found.append(self._ready.popleft())
        return found
