"""EmbedStream for whoever has a stub: any number of images on one call, several in a message if the server takes them.

gRPC's cost is by the message, so images share one, without a timer: while there are more images than may be under way,
answers are waited for until a quarter of the places is free, and their images go out together. An image that is alone
goes at once.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from microtome.client.ordered_async import asynchronously
from microtome.v1 import embedding_pb2 as messages

if TYPE_CHECKING:
    # Only the types have it.
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
        images: each with an id, which its answer bears. An ordinary iterable must not block.
        options: for all of them.
        under_way: images sent and not answered. Nothing more is read from `images` while the answers are not taken.
        how: `timeout`, of the whole stream, `metadata` and whatever else the stub's method takes.

    Yields:
        answers as they are ready, in any order: `id`, `model`, and `result` with an image's vectors or its error.

    Raises:
        grpc.aio.AioRpcError: the stream has ended. Send what has no answer yet again, on a new one. Where something
            was being written at that moment, gRPC says INTERNAL whatever the server said.
    """
    call: Any = stub.EmbedStream(**how)
    outgoing = _Outgoing(call, under_way)
    sending = asyncio.gather(outgoing.gather(images), outgoing.write(options or messages.EmbedOptions()))
    # Without its end a stream of which nothing more comes would be read for ever.
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
    """Images on their way to the server."""

    def __init__(self, call: Any, under_way: int) -> None:  # noqa: ANN401, gRPC's types say nothing
        self._call = call
        self._places = asyncio.Semaphore(under_way)
        # At most half of those under way, so that the next are sent while these are answered. At least a quarter where
        # only places are lacking, since what is answered one by one would else go one by one for ever.
        self._own_most, self._own_least = max(1, under_way // 2), max(1, under_way // 4)
        self._most, self._most_bytes = 1, 0
        self._ready: deque[messages.StreamImage] = deque()
        self._news = asyncio.Event()
        self._complete = False

    def answered(self, images: int, response: messages.EmbedStreamResponse) -> None:
        """Give the places of answered images to others, and learn how much the server takes in a message."""
        for _ in range(images):
            self._places.release()
        if response.max_images:
            self._most, self._most_bytes = min(response.max_images, self._own_most), response.max_bytes
        self._news.set()

    async def gather(self, images: AsyncIterable[tuple[str, bytes]] | Iterable[tuple[str, bytes]]) -> None:
        """Take images, as long as there are places."""
        async for name, image in asynchronously(images):
            await self._places.acquire()
            self._ready.append(messages.StreamImage(id=name, image=messages.Image(data=image)))
            self._news.set()
        self._complete = True
        self._news.set()

    async def write(self, options: messages.EmbedOptions) -> None:
        """Write the options, then what is ready, until there is no more."""
        await self._call.write(messages.EmbedStreamRequest(options=options, reads_more=True))
        while await self._due():
            first, *more = self._next()
            await self._call.write(messages.EmbedStreamRequest(id=first.id, image=first.image, more=more))
        await self._call.done_writing()

    async def _due(self) -> bool:
        """Wait until a message is to go out; return whether there is any."""
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
